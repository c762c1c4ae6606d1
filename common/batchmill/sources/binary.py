"""Sources whose files are the rows: images, audio, PDFs. A row is a file: its path, size, time, and bytes.

The bytes are read when a shard is, by the worker, several files at once; if the columns asked for do not have them, no
file is opened at all.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.jobs.dead_letters import TOO_LARGE
from batchmill.jobs.shard import Slice
from batchmill.sources.base import BadRow, End, InputSplit, NextSplit, RowCount, RowsRead, Source, Splitter
from batchmill.sources.cursor import SourceCursor
from batchmill.sources.files.opening import changed, open_file, reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.sources.description import SourceDescription, SourceFile
    from batchmill.sources.files.opening import SourceFiles

SCHEMA = pa.schema(
    [
        ("path", pa.string()),
        ("size", pa.int64()),
        ("modified_at", pa.timestamp("s", "UTC")),
        ("bytes", pa.large_binary()),
    ]
)
BYTES = "bytes"
_LOCAL_READERS = 4
_REMOTE_READERS = 16  # they wait for the network


class BinarySource(Source):
    """Files as rows. Slices are runs of files, by their index."""

    def __init__(self, description: SourceDescription, files: SourceFiles) -> None:
        self.schema = description.arrow_schema
        self._entries = description.files
        self._files = files
        self._max_file_bytes = description.max_file_bytes
        self._has_bytes = BYTES in self.schema.names

    def count(self, cursor: str) -> RowCount:  # noqa: ARG002  # known from the start
        """Return the number of files."""
        return RowCount(len(self._entries), exact=True)

    def splitter(self, cursor: str = "") -> BinarySplitter:
        """Split the files from a cursor on."""
        sizes = [self._weight(entry) for entry in self._entries]
        return BinarySplitter(sizes, SourceCursor.parse(cursor).row)

    def read(self, slices: Sequence[Slice]) -> pa.Table:
        """See `Source`. A file that is too large has no bytes; one that changed or is gone is an `InvalidSource`."""
        return self.read_with_faults(slices).table

    def read_with_faults(self, slices: Sequence[Slice]) -> RowsRead:
        """See `Source`. A file that is larger than the source allows is a bad row."""
        indexes = [index for one in slices for index in range(one.start, one.stop)]
        entries = [self._entries[index] for index in indexes]
        columns = {
            "path": [entry.name for entry in entries],
            "size": [entry.size for entry in entries],
            "modified_at": [entry.mtime_s or None for entry in entries],
        }
        arrays = {name: pa.array(values, SCHEMA.field(name).type) for name, values in columns.items()}
        bad = tuple(self._too_large(place, entry) for place, entry in enumerate(entries) if self._is_too_large(entry))
        if self._has_bytes:
            arrays[BYTES] = pa.array(self._contents(indexes), SCHEMA.field(BYTES).type)
        table = pa.table([arrays[name] for name in self.schema.names], schema=self.schema)
        return RowsRead(table, bad)

    def _weight(self, entry: SourceFile) -> int:
        own = len(entry.name) + 16
        return own + entry.size if self._has_bytes and not self._is_too_large(entry) else own

    def _is_too_large(self, entry: SourceFile) -> bool:
        return self._has_bytes and entry.size > self._max_file_bytes

    def _too_large(self, place: int, entry: SourceFile) -> BadRow:
        reason = f"it has {entry.size:,} bytes, and a file may have {self._max_file_bytes:,}"
        return BadRow(place, entry.name, 0, "", reason, TOO_LARGE)

    def _contents(self, indexes: Sequence[int]) -> list[bytes | None]:
        if not indexes:
            return []
        readers = _LOCAL_READERS if self._files.locate(indexes[0]).is_local else _REMOTE_READERS
        with ThreadPoolExecutor(min(readers, len(indexes))) as pool:
            return list(pool.map(self._content, indexes))

    def _content(self, index: int) -> bytes | None:
        entry = self._entries[index]
        if self._is_too_large(entry):
            return None
        location = self._files.check(index)
        with reading(location), open_file(location) as file:
            content: bytes = file.read(entry.size + 1)
        if len(content) != entry.size:
            raise changed(location.uri, f"it had {entry.size:,} bytes and now has another number of them")
        return content


class BinarySplitter(Splitter):
    """Splits a list of files by their number and their bytes. sizes: the bytes that each takes as a row."""

    def __init__(self, sizes: Sequence[int], row: int) -> None:
        self._sizes = sizes
        self._row = row

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:
        """See `Splitter`. Nothing is read: the sizes are known."""
        start = stop = self._row
        taken = 0
        while stop < min(len(self._sizes), start + max_rows) and (
            stop == start or taken + self._sizes[stop] <= max_bytes
        ):
            taken += self._sizes[stop]
            stop += 1
        if stop == start:
            return End()
        self._row = stop
        cursor = SourceCursor(row=stop).text()
        return InputSplit((Slice(0, start, stop, stop - start),), stop - start, taken, cursor)
