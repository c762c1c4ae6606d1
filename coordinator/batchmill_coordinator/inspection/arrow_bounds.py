"""What Arrow IPC data says of its own size, read from its metadata before anything is decompressed or allocated.

A compressed buffer begins with its unpacked length, and a record batch declares its rows and buffers, so some dozens of
bytes can claim gigabytes. pyarrow does not show these figures, so the three flatbuffer tables that hold them are read
here: https://arrow.apache.org/docs/format/Columnar.html (Message, RecordBatch, Footer).
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchmill.columns import ColumnTooLargeError, UnsupportedColumnError, carry
from batchmill.errors import InvalidRows, PayloadTooLarge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.settings import CoordinatorSettings

MAGIC = b"ARROW1"
MAX_NAME_BYTES = 1024
MAX_DEPTH = 32
MIN_LIMIT_BYTES = 16 * 1024 * 1024
MAX_RATIO = 200
"""Data may unpack to `MIN_LIMIT_BYTES` or to this many times its size, whichever is more, up to the absolute limit."""

_DICTIONARY, _RECORDS = 2, 3  # of the union MessageHeader
_BLOCK_BYTES = 24
_BUFFER_BYTES = 16


@dataclass(frozen=True, slots=True)
class ArrowLimits:
    """How much rows that a client sends may hold, in one request or one part."""

    max_rows: int
    max_bytes: int  # unpacked
    max_columns: int

    def check_columns(self, schema: pa.Schema) -> None:
        """Raise `InvalidRows` for too many columns, or a name or nesting that other formats cannot hold."""
        if len(schema) > self.max_columns:
            raise InvalidRows(
                f"the rows have {len(schema):,} columns, at most {self.max_columns:,} are allowed.",
                hint="Put values of one kind into one list column, or raise BATCHMILL_MAX_COLUMNS.",
                limit=self.max_columns,
            )
        for place in range(len(schema)):
            self._check_field(schema, place)

    def _check_field(self, schema: pa.Schema, place: int) -> None:
        try:
            field = schema.field(place)
            name = field.name
        except UnicodeDecodeError:
            raise InvalidRows(
                f"the name of column {place} is not UTF-8.", hint="Rename the column.", column=place
            ) from None
        if len(name.encode()) > MAX_NAME_BYTES:
            raise InvalidRows(
                f"the name of column {place} has {len(name):,} characters, the limit is {MAX_NAME_BYTES:,} bytes.",
                hint="Shorten it.",
                column=place,
            )
        if _depth(field.type) > MAX_DEPTH:
            raise InvalidRows(
                f"column {name!r} is nested more than {MAX_DEPTH} levels deep.",
                hint="Flatten it, or send it as JSON text.",
                column=name,
            )

    def check(self, rows: int, nbytes: int, packed_bytes: int) -> None:
        """Raise `PayloadTooLarge` for more rows or unpacked bytes than data of `packed_bytes` may hold."""
        if rows > self.max_rows:
            raise PayloadTooLarge(
                f"the rows are {rows:,}, at most {self.max_rows:,} are allowed at once.",
                hint="Send them in several parts, or raise BATCHMILL_MAX_ROWS_AT_ONCE.",
                limit=self.max_rows,
            )
        limit = min(self.max_bytes, max(MIN_LIMIT_BYTES, MAX_RATIO * packed_bytes))
        if nbytes > limit:
            raise PayloadTooLarge(
                f"the rows take {nbytes:,} bytes when they are unpacked from {packed_bytes:,}, "
                f"at most {limit:,} are allowed.",
                hint="Send them in several parts or uncompressed, or raise BATCHMILL_MAX_UNPACKED_BYTES.",
                limit=limit,
            )

    def check_table(self, table: pa.Table, packed_bytes: int) -> None:
        """Raise `PayloadTooLarge` when a table in memory takes too much once its encodings are undone."""
        self.check(table.num_rows, sum(_expanded_bytes(column) for column in table.columns), packed_bytes)


def arrow_limits(settings: CoordinatorSettings) -> ArrowLimits:
    """The limits that the settings name."""
    return ArrowLimits(settings.max_rows_at_once, settings.max_unpacked_bytes, settings.max_columns)


def read_stream(data: pa.Buffer, limits: ArrowLimits) -> pa.Table:
    """The table in an Arrow IPC stream, read if its metadata keeps the limits.

    Raises `PayloadTooLarge` or `InvalidRows`, and `ValueError` or `pyarrow.ArrowException` for data that is no stream.
    """
    messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(data))
    limits.check(*_sum(_declared(message) for message in messages), data.size)
    with pa.ipc.open_stream(data) as stream:
        limits.check_columns(stream.schema)
        table = stream.read_all()
    table.validate(full=True)
    limits.check_table(table, data.size)
    return table


def table_from_base64(text: str | bytes, limits: ArrowLimits) -> pa.Table:
    """The table in a base64 Arrow IPC stream; no bytes are an empty table.

    Raises `InvalidRows` when it is none, `PayloadTooLarge` when it breaks a limit.
    """
    try:
        data = base64.b64decode(text, validate=True)
        return carry(read_stream(pa.py_buffer(data), limits), limits.max_bytes) if data else pa.table({})
    except (UnsupportedColumnError, ColumnTooLargeError) as error:
        raise InvalidRows(
            f"rows_arrow cannot be used: {error}.", hint="Convert the column, or leave it out."
        ) from error
    except (ValueError, pa.ArrowException, OSError) as error:
        raise InvalidRows(
            f"rows_arrow is no Arrow IPC stream in base64 ({error}).", hint="Send plain JSON objects as `rows`."
        ) from error


def check_file(data: pa.Buffer, limits: ArrowLimits) -> None:
    """Check an Arrow IPC file, batch by batch. Raises as `read_stream`."""
    limits.check(*_sum(_declared(message) for message in _messages_of_file(data)), data.size)
    with pa.ipc.open_file(data) as file:
        limits.check_columns(file.schema)
        expanded = 0
        for place in range(file.num_record_batches):
            batch = file.get_batch(place)
            batch.validate(full=True)
            expanded += sum(_expanded_bytes(column) for column in batch.columns)
        limits.check(0, expanded, data.size)


def _sum(declared: Iterator[tuple[int, int]]) -> tuple[int, int]:
    rows = nbytes = 0
    for more_rows, more_bytes in declared:
        rows, nbytes = rows + more_rows, nbytes + more_bytes
    return rows, nbytes


def _messages_of_file(data: pa.Buffer) -> Iterator[pa.Message]:
    """The messages that a file's footer names, which are those that a reader of the file reads."""
    view = memoryview(data)
    tail = len(MAGIC) + 4
    if data.size < 2 * tail or bytes(view[: len(MAGIC)]) != MAGIC or bytes(view[-len(MAGIC) :]) != MAGIC:
        raise ValueError("it does not begin and end as one")
    length = _number("<i", view, data.size - tail)
    if not 0 < length <= data.size - 2 * tail:
        raise ValueError("its footer is damaged")
    footer = _Table.root(view[data.size - tail - length : data.size - tail])
    for field in (2, 3):
        for start in footer.vector(field, _BLOCK_BYTES):
            offset = _number("<q", footer.data, start)
            if not 0 <= offset < data.size:
                raise ValueError("its footer is damaged")
            yield pa.ipc.read_message(pa.BufferReader(data.slice(offset)))


def _declared(message: pa.Message) -> tuple[int, int]:
    """The rows of a message, and the bytes of its body once it is decompressed."""
    header = _Table.root(memoryview(message.metadata))
    kind = header.scalar(1, "<B")
    if kind not in (_DICTIONARY, _RECORDS):
        return 0, 0
    batch = header.table(2)
    if kind == _DICTIONARY:
        batch = batch.table(1)
    rows = batch.scalar(0, "<q") if kind == _RECORDS else 0
    if rows < 0:
        raise ValueError("a message is damaged")
    if batch.position(3) is None:
        return rows, message.body.size if message.body else 0
    return rows, sum(_unpacked(batch, start, memoryview(message.body)) for start in batch.vector(2, _BUFFER_BYTES))


def _unpacked(batch: _Table, start: int, body: memoryview) -> int:
    offset, length = _number("<q", batch.data, start), _number("<q", batch.data, start + 8)
    if length == 0:
        return 0
    declared = _number("<q", body, offset)
    if declared < -1:
        raise ValueError("a buffer is damaged")
    return length if declared == -1 else declared


@dataclass(frozen=True, slots=True)
class _Table:
    """A table in a flatbuffer, whose fields are found by their number."""

    data: memoryview
    at: int

    @classmethod
    def root(cls, data: memoryview) -> _Table:
        return cls(data, _number("<I", data, 0))

    def position(self, field: int) -> int | None:
        """Where a field's value is; None when it has its default."""
        vtable = self.at - _number("<i", self.data, self.at)
        entry = 4 + 2 * field
        if entry + 2 > _number("<H", self.data, vtable):
            return None
        offset = _number("<H", self.data, vtable + entry)
        return self.at + offset if offset else None

    def scalar(self, field: int, form: str) -> int:
        place = self.position(field)
        return 0 if place is None else _number(form, self.data, place)

    def table(self, field: int) -> _Table:
        return _Table(self.data, self._target(field))

    def vector(self, field: int, item_bytes: int) -> Iterator[int]:
        """Where each item of a vector of structs is."""
        if self.position(field) is None:
            return
        start = self._target(field)
        count = _number("<I", self.data, start)
        if count * item_bytes > len(self.data):
            raise ValueError("a vector is damaged")
        for place in range(count):
            yield start + 4 + place * item_bytes

    def _target(self, field: int) -> int:
        place = self.position(field)
        if place is None:
            raise ValueError("a message is damaged")
        return place + _number("<I", self.data, place)


def _number(form: str, data: memoryview, at: int) -> int:
    """Return the integer at a place. Raises `ValueError` when that is outside the data."""
    if at < 0:
        raise ValueError("a message is damaged")
    try:
        return int(struct.unpack_from(form, data, at)[0])
    except struct.error as error:
        raise ValueError("a message is damaged") from error


def _depth(kind: pa.DataType) -> int:
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return 1 + _depth(kind.value_type)
    return 1 + max((_depth(kind.field(place).type) for place in range(kind.num_fields)), default=0)


def _expanded_bytes(column: pa.ChunkedArray | pa.Array) -> int:
    """The bytes of a column whose dictionaries, runs and views are written out."""
    if isinstance(column, pa.ChunkedArray):
        return sum(_expanded_bytes(chunk) for chunk in column.chunks)
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _repeated(column.dictionary, column.indices)
    if pa.types.is_run_end_encoded(kind):
        return int(len(column) * max(column.values.nbytes / max(len(column.values), 1), 1))
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        views = np.frombuffer(column.buffers()[1], np.int32).reshape(-1, 4)  # each begins with a length
        return int(views[column.offset : column.offset + len(column), 0].clip(0).sum(dtype=np.int64))
    if pa.types.is_struct(kind):
        return sum(_expanded_bytes(child) for child in column.flatten())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _expanded_bytes(column.flatten()) + 4 * len(column)
    return int(column.nbytes)


def _repeated(values: pa.Array, indices: pa.Array) -> int:
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind):
        lengths = pc.binary_length(values).cast(pa.int64())
        return int(pc.sum(lengths.take(indices)).as_py() or 0)
    return int(len(indices) * values.nbytes / max(len(values), 1))
