"""Sources in Parquet and Arrow files: split at row numbers, preferably where a row group or record batch ends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from batchmill.columns import carry
from batchmill.error_text import first_line
from batchmill.jobs.shard import Slice
from batchmill.sources.base import (
    MAX_SLICES,
    BadRow,
    End,
    InputSplit,
    NextSplit,
    RowCount,
    RowsRead,
    Source,
    Splitter,
    by_slice,
    join_rows,
    null_rows,
)
from batchmill.sources.cursor import SourceCursor
from batchmill.sources.file_columns import FileColumns
from batchmill.sources.files.opening import UnreadableFile, changed, fault_of, reading, unreadable
from batchmill.sources.schemas import conform

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from numpy.typing import NDArray

    from batchmill.sources.description import SourceDescription
    from batchmill.sources.files.opening import SourceFiles

_NEAR = 0.25  # of a split: how much shorter it may become so that it ends where a group ends
_ROUNDING = 1e-6  # of a row
_HINT = 'Write the file again, or give the source `on_bad_line` "dead": then such rows become dead letters.'


@dataclass(frozen=True, slots=True)
class Groups:
    """The row groups of a Parquet file or the record batches of an Arrow file, the empty ones left out."""

    ends: NDArray[np.int64]  # 0, then the rows of the file up to and with each
    bytes: NDArray[np.float64]  # likewise about how many bytes they take; rising

    @classmethod
    def of(cls, rows: Sequence[int], sizes: Sequence[float]) -> Groups:
        """Make groups from the rows and bytes of each."""
        full = [(count, max(size, 1.0)) for count, size in zip(rows, sizes, strict=True) if count]
        return cls(
            np.cumsum([0, *(count for count, _ in full)], dtype=np.int64),
            np.cumsum([0.0, *(size for _, size in full)], dtype=np.float64),
        )

    @property
    def rows(self) -> int:
        """How many rows the file has."""
        return int(self.ends[-1])

    def size(self, start: int, stop: int) -> float:
        """About how many bytes these rows take."""
        first, last = np.interp([start, stop], self.ends, self.bytes)
        return float(last - first)

    def stop(self, start: int, max_rows: int, max_bytes: float) -> int:
        """Return where a split from `start` on ends: at a group's end if one is near, else at the limits."""
        by_bytes = int(np.interp(self.size(0, start) + max_bytes, self.bytes, self.ends) + _ROUNDING)
        stop = min(start + max_rows, by_bytes, self.rows)
        end = int(self.ends[np.searchsorted(self.ends, stop, side="right") - 1])
        return end if end > start and stop - end <= _NEAR * (stop - start) else stop

    def is_end(self, row: int) -> bool:
        """Whether a group ends there."""
        return int(self.ends[np.searchsorted(self.ends, row)]) == row


class GroupReader(ABC):
    """Reads the files of a source by row numbers. Safe to use from several threads."""

    @abstractmethod
    def groups(self, index: int) -> Groups:
        """Read where the groups of a file end."""

    @abstractmethod
    def read(self, index: int, start: int, stop: int) -> pa.Table:
        """Read these rows of a file, with at least the columns of the source."""


class ColumnarSource(Source):
    """Parquet or Arrow files. Slices are row numbers of a file."""

    def __init__(self, description: SourceDescription, files: SourceFiles, reader: GroupReader) -> None:
        self.schema = description.arrow_schema
        self._file_schema = description.file_schema
        self._columns = FileColumns(description)
        self._keeps_bad_rows = description.keeps_bad_rows
        self._rows = [file.rows or 0 for file in description.files]
        self._total = sum(self._rows)
        self._files = files
        self._reader = reader

    def count(self, cursor: str) -> RowCount:  # noqa: ARG002  # known from the start
        """Return the rows of all files, exactly."""
        return RowCount(self._total, exact=True)

    def splitter(self, cursor: str = "") -> ColumnarSplitter:
        """Split from a cursor on."""
        return ColumnarSplitter(self._files, self._reader, self._rows, SourceCursor.parse(cursor))

    def read(self, slices: Sequence[Slice]) -> pa.Table:
        """Read the rows of these slices: the groups that have them, and only the source's columns."""
        return self.read_with_faults(slices).table

    def read_with_faults(self, slices: Sequence[Slice]) -> RowsRead:
        """See `Source`. Where a group cannot be read at all, each of its rows is bad."""
        return join_rows([self._read(one) for one in slices], self.schema)

    def _read(self, one: Slice) -> RowsRead:
        entry = self._files.entries[one.file]
        try:
            if not entry.is_readable:
                raise unreadable(entry.name, entry.fault)
            found = self._read_file(one)
        except UnreadableFile as fault:
            if not self._keeps_bad_rows:
                raise
            reason = fault_of(fault)
            found = RowsRead(
                null_rows(self._file_schema, one.rows),
                tuple(BadRow(place, entry.name, 0, "", reason) for place in range(one.rows)),
            )
        return RowsRead(self._columns.add(found.table, entry), found.bad)

    def origins(self, slices: Sequence[Slice], places: Sequence[int]) -> list[str]:
        """See `Source`."""
        if self._files.are_uploaded:
            return super().origins(slices, places)
        return [
            f"{self._files.entries[one.file].name}, {_counted(one.start + place)}"
            for one, own in zip(slices, by_slice([one.rows for one in slices], places), strict=True)
            for place in own
        ]

    def _read_file(self, one: Slice) -> RowsRead:
        location = self._files.locate(one.file)
        with reading(location):
            table = self._reader.read(one.file, one.start, one.stop)
        if table.num_rows != one.rows:
            raise changed(location.uri, f"it has {table.num_rows:,} of the {one.rows:,} rows from {one.start:,} on")
        try:
            return RowsRead(_checked(table, self._file_schema))
        except (ValueError, KeyError) as error:
            place = _first_bad_row(table, self._file_schema)
            if not self._keeps_bad_rows:
                reason = f"{_counted(one.start + place)}: {_reason(table, place, error)}"
                raise unreadable(location.uri, reason, hint=_HINT) from error
        return self._good_rows(table, location.uri, one.start)

    def _good_rows(self, table: pa.Table, uri: str, first_row: int) -> RowsRead:
        """Read the rows that have the schema, the others as nulls."""
        parts: list[RowsRead] = []
        left = [(0, table.num_rows)]
        while left:
            start, stop = left.pop()
            part = table.slice(start, stop - start)
            try:
                parts.append(RowsRead(_checked(part, self._file_schema)))
            except (ValueError, KeyError) as error:
                if stop - start > 1:
                    middle = (start + stop) // 2
                    left += [(middle, stop), (start, middle)]
                    continue
                reason = f"{_counted(first_row + start)}: {_reason(part, 0, error)}"
                parts.append(RowsRead(null_rows(self._file_schema, 1), (BadRow(0, uri, 0, "", reason),)))
        return join_rows(parts, self._file_schema)


def _checked(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the table with a schema, its columns in forms that results can hold.

    Every value is checked first: what another program wrote must not make this one read past a buffer. Raises
    `ValueError` for text that is no UTF-8, or a value that does not fit.
    """
    table.validate(full=True)
    try:
        return conform(carry(table.select([name for name in schema.names if name in table.column_names])), schema)
    except TypeError as error:
        raise ValueError(str(error)) from error


def _counted(row: int) -> str:
    return f"row {row:,} (the first one is 0)"


def _first_bad_row(table: pa.Table, schema: pa.Schema) -> int:
    good, bad = 0, int(table.num_rows)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            _checked(table.slice(0, middle), schema)
        except (ValueError, KeyError):
            bad = middle
        else:
            good = middle
    return max(bad - 1, 0)


def _reason(table: pa.Table, row: int, error: Exception) -> str:
    """Return what is wrong with a row, and with which of its columns, as a clause."""
    for name in table.column_names:
        try:
            table.select([name]).slice(row, 1).validate(full=True)
        except ValueError:
            return (
                f"it has no valid value in column {name!r}: text must be UTF-8, and offsets and codes in their ranges"
            )
    return f"it does not have the source's schema: {first_line(error)}"


class ColumnarSplitter(Splitter):
    """Splits files whose footers say how many rows they have; nothing else of them is read."""

    def __init__(self, files: SourceFiles, reader: GroupReader, rows: Sequence[int], cursor: SourceCursor) -> None:
        self._files = files
        self._reader = reader
        self._rows = rows
        self._file = cursor.file
        self._offset = cursor.offset
        self._row = cursor.row
        self._groups: Groups | None = None

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:
        """See `Splitter`. A split has rows of one file or of several small ones."""
        slices: list[Slice] = []
        rows, size = 0, 0.0
        while rows < max_rows and len(slices) < MAX_SLICES and self._at_row():
            start, groups = self._offset, self._open()
            stop = groups.stop(start, max_rows - rows, max_bytes - size)
            if not slices:
                stop = max(stop, start + 1)
            is_full = max(rows / max_rows, size / max_bytes) >= 1 - _NEAR
            if stop <= start or (is_full and not groups.is_end(stop)):
                break
            slices.append(Slice(self._file, start, stop, stop - start))
            rows += stop - start
            size += groups.size(start, stop)
            self._offset = stop
        if not slices:
            return End()
        self._row += rows
        self._at_row()
        cursor = SourceCursor(self._file, self._offset, row=self._row)
        return InputSplit(tuple(slices), rows, round(size), cursor.text())

    def _at_row(self) -> bool:
        """Move to the file that has the next row; False behind the last one."""
        while self._file < len(self._rows) and self._offset >= self._rows[self._file]:
            self._file += 1
            self._offset = 0
            self._groups = None
        return self._file < len(self._rows)

    def _open(self) -> Groups:
        if self._groups is None and not self._files.entries[self._file].is_readable:
            self._groups = Groups.of([1], [1.0])
        if self._groups is None:
            location = self._files.check(self._file)
            with reading(location):
                self._groups = self._reader.groups(self._file)
            if self._groups.rows != self._rows[self._file]:
                raise changed(location.uri, f"it had {self._rows[self._file]:,} rows and now has {self._groups.rows:,}")
        return self._groups
