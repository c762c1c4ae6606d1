"""The rows of files on this machine, read here to be uploaded: the service needs no access to them."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from batchmill.sources import describe, open_source
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from batchmill.jobs.files import FileSource

SPLIT_ROWS = 100_000
SPLIT_BYTES = 8 * 1024 * 1024


def local_rows(source: FileSource) -> Iterator[pa.Table]:
    """Yield the rows of a source in order, as tables of about `SPLIT_BYTES`.

    Raises `InvalidSource` for a source that cannot be read, as the service does.
    """
    locations = Locations(UNRESTRICTED)
    description = describe(source, locations)
    with tempfile.TemporaryDirectory(prefix="batchmill-upload-") as folder:
        blobs = BlobStore(locations.resolve(folder))
        found = open_source(description, locations, blobs, "staging")
        with found.splitter() as splitter:
            for split in splitter.available(SPLIT_ROWS, SPLIT_BYTES):
                yield found.read(split.slices)
