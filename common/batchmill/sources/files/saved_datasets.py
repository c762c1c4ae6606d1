"""Folders that `save_to_disk` of Hugging Face's `datasets` wrote: Arrow streams, and a file that lists them in order.

Such a folder may also have `cache-….arrow` files, which are not rows of the dataset.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidSource
from batchmill.sources.files.opening import open_file, unreadable

if TYPE_CHECKING:
    from batchmill.storage.locations import Location

STATE_FILE = "state.json"
_MAX_STATE_BYTES = 16 * 1024 * 1024
_FILES, _INDICES = "_data_files", "_indices_data_files"


def saved_files(location: Location) -> list[str] | None:
    """Return the names of a dataset's files, from its state file; None if it is another file of that name.

    Raises `InvalidSource` for a dataset whose order is in a file of its own, and for one without files.
    """
    state = _read(location)
    if not isinstance(state, dict) or not isinstance(state.get(_FILES), list):
        return None
    names = [one["filename"] for one in state[_FILES] if isinstance(one, dict) and "filename" in one]
    if len(names) < len(state[_FILES]) or not all(isinstance(name, str) for name in names):
        raise unreadable(location.uri, f"{_FILES!r} is not a list of files")
    if state.get(_INDICES):
        raise InvalidSource(
            f"{location.uri} is of a dataset whose rows are chosen by indices in another file, which is not read.",
            hint="Call its `flatten_indices()`, and save it again.",
            file=location.uri,
        )
    if not names:
        raise InvalidSource(f"{location.uri} is of a dataset without rows.", file=location.uri)
    return names


def _read(location: Location) -> Any:
    with open_file(location) as file:
        if file.size() > _MAX_STATE_BYTES:
            return None
        data = file.read_at(file.size(), 0)
    try:
        return json.loads(data)
    except ValueError:
        return None
