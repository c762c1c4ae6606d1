"""Reads rows of Parquet files by number.

A row group is the least that Parquet can read from its beginning, and files with a million rows in one are common.
A slice that is a part of a group is therefore decoded batch by batch, what comes before it is dropped, and the
decoder is kept at its row: the next slice of the same group, which is what a worker usually gets, continues from
there. So each worker decodes a group about once, and holds a few batches of it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import parquet as pq

from batchmill.caches import Lru
from batchmill.sources.columnar.columnar_source import GroupReader, Groups
from batchmill.sources.files.opening import MAX_OPEN_FILES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.sources.files.opening import SourceFiles

INT96_UNIT = "us"
"""Of timestamps of the old form: nanoseconds would wrap years before 1678 and after 2261 around."""

_MAX_DECODERS = 3  # a source
_BATCH_BYTES = 1 * 1024 * 1024
_BATCH_ROWS = 64 * 1024
_BUFFER_BYTES = 1024 * 1024  # a column


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A Parquet file with its footer; both may be used by several threads."""

    file: Any
    footer: pq.FileMetaData
    remote: bool

    def reader(self) -> pq.ParquetFile:
        """Open a reader for one caller. It reads a local file as needed, a remote one in one request."""
        buffer = 0 if self.remote else _BUFFER_BYTES
        return pq.ParquetFile(
            self.file,
            metadata=self.footer,
            pre_buffer=self.remote,
            buffer_size=buffer,
            coerce_int96_timestamp_unit=INT96_UNIT,
        )


def group_rows(footer: pq.FileMetaData) -> list[int]:
    """Return the rows of each row group: what the file holds, whatever the footer says of the sum.

    Raises `pa.ArrowInvalid` for a number below 0.
    """
    rows = [footer.row_group(number).num_rows for number in range(footer.num_row_groups)]
    if any(count < 0 for count in rows):
        raise pa.ArrowInvalid(f"a row group has {min(rows)} rows")
    return rows


class ParquetReader(GroupReader):
    """Reads row groups, completely or in part, and only the columns asked for."""

    def __init__(self, files: SourceFiles, columns: list[str]) -> None:
        self._files = files
        self._columns = columns
        self._open_files: Lru[int, OpenFile] = Lru(MAX_OPEN_FILES)
        self._decoders = _Decoders()

    def groups(self, index: int) -> Groups:
        """Read where the file's row groups end; their bytes are those of the source's columns, decompressed."""
        footer = pq.read_metadata(self._files.open(index))
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        return Groups.of(group_rows(footer), [self._bytes(group) for group in groups])

    def read(self, index: int, start: int, stop: int) -> pa.Table:
        """Read complete groups at once, parts of groups through a decoder that is kept."""
        file = self._open(index)
        tables = [part for part in self._parts(index, file, start, stop) if part.num_rows]
        return pa.concat_tables(tables) if tables else file.reader().schema_arrow.empty_table()

    def _parts(self, index: int, file: OpenFile, start: int, stop: int) -> Iterator[pa.Table]:
        first = 0
        for number in range(file.footer.num_row_groups):
            rows = file.footer.row_group(number).num_rows
            low, high = max(start - first, 0), min(stop - first, rows)
            if low == 0 and high == rows:
                yield file.reader().read_row_group(number, columns=self._columns)
            elif low < high:
                yield self._decode(file, (index, number), low, high)
            first += rows

    def _decode(self, file: OpenFile, group: tuple[int, int], start: int, stop: int) -> pa.Table:
        decoder = self._decoders.borrow(group, start)
        if decoder is None:
            decoder = Decoder(group, self._batches(file, group[1]))
        table = decoder.read(start, stop)
        self._decoders.give_back(decoder)
        return table

    def _batches(self, file: OpenFile, number: int) -> Iterator[pa.RecordBatch]:
        group = file.footer.row_group(number)
        row_bytes = max(self._bytes(group) / max(group.num_rows, 1), 1)
        rows = min(max(int(_BATCH_BYTES / row_bytes), 1), _BATCH_ROWS)
        batches: Iterator[pa.RecordBatch] = file.reader().iter_batches(rows, row_groups=[number], columns=self._columns)
        return batches

    def _open(self, index: int) -> OpenFile:
        remote = not self._files.locate(index).is_local
        file = self._files.open(index)
        return self._open_files.get_or_make(index, lambda: OpenFile(file, pq.read_metadata(file), remote))

    def _bytes(self, group: pq.RowGroupMetaData) -> int:
        wanted = set(self._columns)
        chunks = (group.column(number) for number in range(group.num_columns))
        return sum(
            chunk.total_uncompressed_size
            for chunk in chunks
            if chunk.path_in_schema in wanted or chunk.path_in_schema.partition(".")[0] in wanted
        )


@dataclass(slots=True)
class Decoder:
    """Decodes one row group from its beginning on."""

    group: tuple[int, int]  # the file's index, the group's number
    batches: Iterator[pa.RecordBatch]
    row: int = 0  # of the group, the next one
    left: list[pa.RecordBatch] = field(default_factory=list)  # what is left of the last batch

    def read(self, start: int, stop: int) -> pa.Table:
        """Decode these rows of the group, `start` not before `row`."""
        found: list[pa.RecordBatch] = []
        while self.row < stop:
            batch = self.left.pop() if self.left else next(self.batches, None)
            if batch is None:
                raise pa.ArrowInvalid(f"row group {self.group[1]} ends at row {self.row}, before row {stop}")
            first = min(max(start - self.row, 0), batch.num_rows)
            last = min(stop - self.row, batch.num_rows)
            if last < batch.num_rows:
                self.left.append(batch.slice(last))
            if first < last or not found:
                found.append(batch.slice(first, last - first))
            self.row += last
        return pa.Table.from_batches(found)


class _Decoders:
    """The decoders last used. One that is borrowed belongs to one thread until it is returned."""

    def __init__(self) -> None:
        self._idle: list[Decoder] = []
        self._lock = threading.Lock()

    def borrow(self, group: tuple[int, int], row: int) -> Decoder | None:
        """Take out the decoder that is nearest before a row of a group, if there is one."""
        with self._lock:
            fit = [decoder for decoder in self._idle if decoder.group == group and decoder.row <= row]
            if not fit:
                return None
            nearest = max(fit, key=lambda decoder: decoder.row)
            self._idle = [decoder for decoder in self._idle if decoder is not nearest]
            return nearest

    def give_back(self, decoder: Decoder) -> None:
        """Keep a decoder; the one that was used longest ago goes."""
        with self._lock:
            self._idle = [*self._idle, decoder][-_MAX_DECODERS:]
