"""What a sink writes to, by one name however it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.errors import InvalidOutput
from batchmill.storage.anchors import real_path

if TYPE_CHECKING:
    from batchmill.jobs.sink import SinkSpec
    from batchmill.storage.locations import Locations


def target_of(sink: SinkSpec, locations: Locations) -> str:
    """Return the name. Raises `InvalidOutput` for a path outside the roots, or one in an object store."""
    if sink.table is not None:
        return sink.to
    location = locations.resolve(sink.to, error=InvalidOutput)
    if not location.is_local:
        raise InvalidOutput(f"the sink {sink.to} is in an object store; expected a folder.", path=sink.to)
    return real_path(location.path)
