"""Convert a user's rows to Arrow parts of a size to send.

1. `_tables` reads what the user gave, dict by dict or table by table, into Arrow tables of a few thousand rows.
2. `_conformed` gives each the schema of all rows so far. A column may appear, and widen where nothing is lost
   (null to anything, int to float); it never changes its kind.
3. `_sized` joins and slices them into parts of at most `MAX_PART_BYTES`.

Each step pulls from the one before it, so that memory holds a part or two, whatever the number of rows.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.client.submitting.columns import (
    ONE_TYPE,
    ColumnTypes,
    check_objects,
    columns_of,
    refused_column,
    rows_to_table,
)
from batchmill.columns import TypeConflictError, UnsupportedColumnError, carried_schema, widen_table
from batchmill.errors import InvalidRows
from batchmill.jobs.job import MAX_INLINE_BYTES

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

MAX_PART_BYTES = 8 * 1024 * 1024
MAX_CHUNK_BYTES = 2 * 1024 * 1024
MAX_CHUNK_ROWS = 4096
MAX_BLOCK_ROWS = 64
MAX_LISTED_BLOCK_ROWS = 1024
_FIXED = frozenset({int, float, bool, type(None)})
_SIZED = frozenset({str, bytes})


@dataclass(frozen=True, slots=True)
class UploadPart:
    """Consecutive rows, ready to be sent."""

    first_row: int  # 0-based index of its first row in the user's input
    table: pa.Table
    ipc_file: pa.Buffer | None  # the rows as an Arrow IPC file; None while they are few enough to be sent inline

    def as_file(self) -> pa.Buffer:
        """Return the rows as an Arrow IPC file."""
        return _ipc_file(self.table) if self.ipc_file is None else self.ipc_file

    def as_inline(self) -> pa.Buffer | None:
        """Return the rows as an Arrow IPC stream, or None if it is too large to be sent inline."""
        if self.ipc_file is not None:
            return None
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.table.schema) as writer:
            writer.write_table(self.table)
        stream = sink.getvalue()
        return stream if stream.size <= MAX_INLINE_BYTES else None


def check_rows(rows: object) -> None:
    """Raise `InvalidRows` for a value that cannot be rows, before reading it."""
    if isinstance(rows, (str, bytes, os.PathLike)):
        raise InvalidRows(
            f"rows is a {type(rows).__name__}, expected a list of dicts, an Arrow table or an iterable of either.",
            hint="Give the path of a file as source=.",
        )
    if isinstance(rows, Mapping):
        raise InvalidRows(
            "rows is one dict, expected one dict for each row.",
            hint="Use rows=[{…}, …], or pyarrow.table({…}) for a dict of columns.",
        )
    if not isinstance(rows, Iterable) and not _is_tabular(rows):
        raise InvalidRows(
            f"rows is a {type(rows).__name__}, expected a list of dicts, an Arrow table or an iterable of either."
        )


def upload_parts(rows: Any) -> Iterator[UploadPart]:
    """Yield the rows in parts of at most `MAX_PART_BYTES` (a longer row alone), in order; at least one, perhaps empty.

    rows: dicts, Arrow tables or batches, or anything that exports an Arrow stream, alone or in an iterable. Raises
    `InvalidRows`, naming the row and the column, for rows that do not form a table; errors of the iterable propagate.
    """
    return _sized(_conformed(_tables(rows)))


def _is_tabular(value: object) -> bool:
    return hasattr(value, "__arrow_c_stream__") or hasattr(value, "__arrow_c_array__")


class _Chunk(list[Mapping[str, Any]]):
    """Dicts collected for one table.

    columns: theirs, as long as all have the same keys; else None. weight: an estimate of their bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = 0
        self.columns: dict[str, list[Any]] | None = None

    @property
    def is_full(self) -> bool:
        """Whether no more dicts should be added."""
        return self.weight >= MAX_CHUNK_BYTES or len(self) >= MAX_CHUNK_ROWS

    def add(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Add dicts, and return their weight."""
        columns = columns_of(rows)
        weight = _weight(rows) if columns is None else sum(map(_column_weight, columns.values()))
        if not self:
            self.columns = columns
        elif self.columns is not None:
            if columns is None or columns.keys() != self.columns.keys():
                self.columns = None
            else:
                for name, values in columns.items():
                    self.columns[name] += values
        self.extend(rows)
        self.weight += weight
        return weight


def _tables(rows: Any) -> Iterator[pa.Table]:
    first_row = 0
    for group in [rows] if _is_tabular(rows) else _groups(rows):
        for table in _group_tables(group, first_row):
            yield table
            first_row += table.num_rows


def _groups(rows: Iterable[Any]) -> Iterator[Any]:
    """Yield dicts in chunks, and any other value unchanged.

    Rows are taken in blocks, since a loop over single rows costs more than making their columns. A block has one row
    while rows are large or are no dicts, so that it never holds much more than a chunk may. Rows of a list are there
    anyway, and only their columns are made block by block.
    """
    iterator, size, chunk = iter(rows), 1, _Chunk()
    largest = MAX_LISTED_BLOCK_ROWS if isinstance(rows, list | tuple) else MAX_BLOCK_ROWS
    while block := list(islice(iterator, min(size, MAX_CHUNK_ROWS - len(chunk)))):
        if set(map(type, block)) == {dict}:
            size = _next_size(len(block), chunk.add(block), largest)
        else:
            size, chunk = 1, (yield from _one_by_one(block, chunk))
        if chunk.is_full:
            yield chunk
            chunk = _Chunk()
    if chunk:
        yield chunk


def _one_by_one(rows: Iterable[Any], chunk: _Chunk) -> Generator[Any, None, _Chunk]:
    """Add the rows that are dicts to the chunk; before any other row yield it. Returns the open chunk."""
    for row in rows:
        if isinstance(row, Mapping):
            chunk.add([row])
            continue
        if chunk:
            yield chunk
            chunk = _Chunk()
        yield row
    return chunk


def _next_size(rows: int, weight: int, largest: int) -> int:
    """How many rows to take next, after some that had this weight together."""
    fitting = rows * MAX_CHUNK_BYTES // (4 * max(weight, 1))
    return max(1, min(2 * rows, fitting, largest))


def _group_tables(group: Any, first_row: int) -> Iterator[pa.Table]:
    if isinstance(group, _Chunk):
        yield rows_to_table(group, first_row, group.columns)
    elif isinstance(group, pa.Table):
        yield from _slices(group)
    elif _is_tabular(group):
        reader = _open_tabular(group, first_row)
        yield _without_rows(reader.schema, first_row)
        for batch in reader:
            yield pa.Table.from_batches([batch])
    else:
        raise InvalidRows(
            f"row {first_row} is a {type(group).__name__}, expected a dict (or an Arrow table).", row=first_row
        )


def _slices(table: pa.Table) -> Iterator[pa.Table]:
    """A table as it is, or piece by piece if its columns are to be decoded."""
    try:
        is_plain = carried_schema(table.schema).equals(table.schema)
    except UnsupportedColumnError:
        is_plain = True  # the column is refused when the table is conformed
    if is_plain or not table.num_rows:
        yield table
        return
    for batch in table.to_batches(max_chunksize=MAX_CHUNK_ROWS):
        yield pa.Table.from_batches([batch])


def _without_rows(schema: pa.Schema, first_row: int) -> pa.Table:
    try:
        return carried_schema(schema).empty_table()
    except UnsupportedColumnError as error:
        raise refused_column(error, first_row) from error


def _open_tabular(tabular: Any, first_row: int) -> Any:
    try:
        if not hasattr(tabular, "__arrow_c_stream__"):
            return pa.Table.from_batches([pa.record_batch(tabular)]).to_reader()
        reader = pa.RecordBatchReader.from_stream(tabular)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InvalidRows(
            f"row {first_row}: a {type(tabular).__name__} cannot be read as a table with named columns ({error}).",
            row=first_row,
        ) from error
    check_objects(tabular, reader.schema, first_row)
    return reader


def _weight(rows: Sequence[Mapping[str, Any]]) -> int:
    """Estimate the bytes of rows, well enough to end a chunk before large values fill the memory."""
    return sum(_value_weight(value) for row in rows for value in row.values())


def _column_weight(values: list[Any]) -> int:
    types = set(map(type, values))
    if types <= _FIXED:
        return 8 * len(values)
    if types <= _SIZED and len(types) == 1:
        return sum(map(len, values))
    return sum(map(_value_weight, values))


def _value_weight(value: Any) -> int:
    kind = type(value)
    if kind is str or kind is bytes:
        return len(value)
    if kind is int or kind is float or value is None:
        return 8
    if kind is dict:
        return sum(map(_value_weight, value.values()))
    if kind is list or kind is tuple:
        is_flat = not value or type(value[0]) in (int, float, bool)
        return 8 * len(value) if is_flat else sum(map(_value_weight, value))
    return int(getattr(value, "nbytes", 0)) or (8 * len(value) if hasattr(value, "__len__") else 8)


def _conformed(tables: Iterator[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
    types = ColumnTypes()
    first_row = 0
    for table in tables:
        yield first_row, types.conform(table, first_row)
        first_row += table.num_rows


def _sized(tables: Iterator[tuple[int, pa.Table]]) -> Iterator[UploadPart]:
    held: list[pa.Table] = []
    held_bytes = first_row = next_row = 0
    for start, table in tables:
        next_row = start
        for part in _parts(table):
            if held_bytes and held_bytes + part.nbytes > MAX_PART_BYTES:
                yield _part(first_row, held)
                held, held_bytes, first_row = [], 0, next_row
            held.append(part)
            held_bytes += part.nbytes
            next_row += part.num_rows
    yield _part(first_row, held)


def _parts(table: pa.Table) -> Iterator[pa.Table]:
    """Slice a table into parts of at most `MAX_PART_BYTES`, as far as slicing makes it smaller."""
    size = table.nbytes
    if size <= MAX_PART_BYTES or table.num_rows <= 1:
        yield table
        return
    step = max(1, table.num_rows * MAX_PART_BYTES // (size + size // 8))
    for start in range(0, table.num_rows, step):
        part = table.slice(start, step)
        if MAX_PART_BYTES < part.nbytes < 0.75 * size:
            yield from _parts(part)
        else:
            yield part


def _part(first_row: int, tables: list[pa.Table]) -> UploadPart:
    table = _joined(first_row, tables) if tables else pa.table({})
    if len(tables) > 1:
        table = table.combine_chunks()
    table = table.unify_dictionaries()  # an IPC file has one dictionary for a column
    return UploadPart(first_row, table, None if table.nbytes <= MAX_INLINE_BYTES else _ipc_file(table))


def _joined(first_row: int, tables: Sequence[pa.Table]) -> pa.Table:
    schema = tables[-1].schema  # the widest: each has the columns and types of all rows up to its own
    try:
        return pa.concat_tables([widen_table(table, schema) for table in tables])
    except TypeConflictError as error:
        raise InvalidRows(f"rows from {first_row} on: {error}.", hint=ONE_TYPE, column=error.column) from error


def _ipc_file(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
