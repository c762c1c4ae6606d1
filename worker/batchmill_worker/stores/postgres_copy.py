"""Rows as PostgreSQL's COPY takes them in binary form, made column by column.

A row is an int16, how many columns it has, and for each of them an int32, how many bytes follow (-1: null), and those.
All numbers are big-endian. The bytes of each column are made by numpy or Arrow, then joined row by row by Arrow: one
value at a time in Python would take most of the time of a load. Described in the documentation of COPY, under "Binary
Format"; the forms of the types are those of their receive functions.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchmill_worker.stores.postgres_types import VECTOR, type_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
END = b"\xff\xff"
ROWS_AT_ONCE = 4_096
DAYS_TO_2000, US_TO_2000 = 10_957, 946_684_800_000_000
"""PostgreSQL counts days and microseconds from 2000 on, Arrow from 1970 on."""

_NULL = -1
_DASHES = (8, 13, 18, 23)


def copied(rows: pa.Table) -> Iterator[memoryview | bytes]:
    """Yield what a COPY of all columns of rows is sent."""
    yield SIGNATURE
    for start in range(0, rows.num_rows, ROWS_AT_ONCE):
        yield _joined(rows.slice(start, ROWS_AT_ONCE))
    yield END


def _joined(rows: pa.Table) -> memoryview:
    pieces: list[Any] = [_repeated(rows.num_columns.to_bytes(2, "big"), rows.num_rows)]
    for field in rows.schema:
        pieces += _pieces(rows[field.name].combine_chunks(), field)
    joined = pc.binary_join_element_wise(*pieces, _scalar(b""))
    first, last = np.frombuffer(joined.buffers()[1], np.int64)[[joined.offset, joined.offset + len(joined)]]
    return memoryview(joined.buffers()[2])[first:last]


def _pieces(column: pa.Array, field: pa.Field) -> list[pa.Array]:
    """Return the lengths and the values of a column, as arrays of bytes."""
    kind, arrow = type_of(field)
    if kind.startswith(VECTOR):
        values = _vectors(column, field.type.list_size)
    elif kind in _FIXED:
        values = _fixed(_FIXED[kind](column.cast(arrow)))
    elif kind in _BY_VALUE:
        texts = [None if one is None else _BY_VALUE[kind](one) for one in column.to_pylist()]
        values = pa.array(texts, pa.large_binary())
    else:
        values = column.cast(arrow).cast(pa.large_binary())
    is_null = np.asarray(column.is_null())
    lengths = np.asarray(pc.fill_null(pc.binary_length(values), 0), dtype=np.int64)
    lengths = np.where(is_null, _NULL, lengths).astype(">i4")
    if is_null.any():
        values = pc.if_else(column.is_null(), _scalar(b""), values)
    return [_fixed(lengths), values]


def _vectors(column: pa.Array, size: int) -> pa.Array:
    """Return vectors in pgvector's form: the length as an int16, another int16, and the numbers."""
    numbers = column.flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
    data = np.zeros((len(numbers), 4 + 4 * size), np.uint8)
    data[:, :2] = np.frombuffer(size.to_bytes(2, "big"), np.uint8)
    data[:, 4:].view(">f4")[:] = numbers
    return _fixed(data)


def _fixed(values: npt.NDArray[Any]) -> pa.Array:
    """Return the bytes of each value, or of each row of a matrix of bytes."""
    data = np.ascontiguousarray(values)
    width = data.dtype.itemsize * (data.shape[1] if data.ndim > 1 else 1)
    ends = np.arange(len(data) + 1, dtype=np.int64) * width
    return pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(data), [None, pa.py_buffer(ends), pa.py_buffer(data.reshape(-1).view(np.uint8))]
    )


def _repeated(data: bytes, count: int) -> pa.Array:
    return _fixed(np.tile(np.frombuffer(data, np.uint8), (count, 1)))


def _scalar(data: bytes) -> pa.Scalar:
    return pa.scalar(data, pa.large_binary())


def _numbers(column: pa.Array, kind: str, shift: int = 0) -> npt.NDArray[Any]:
    return np.asarray(pc.fill_null(column, 0), dtype=kind[1:]).__sub__(shift).astype(kind)


def _booleans(column: pa.Array) -> npt.NDArray[Any]:
    return np.asarray(pc.fill_null(column, False).to_numpy(zero_copy_only=False)).astype(np.uint8)


def _uuids(column: pa.Array) -> npt.NDArray[Any]:
    """Return the bytes of UUIDs that are texts."""
    signs = np.frombuffer(b"".join(text.encode() for text in column.to_pylist()), np.uint8).reshape(len(column), -1)
    digits = np.delete(signs, _DASHES, axis=1).tobytes()
    return np.frombuffer(bytes.fromhex(digits.decode()), np.uint8).reshape(len(column), -1)


def _json(value: Any) -> bytes:
    return b"\x01" + json.dumps(value, default=str).encode()


def _numeric(value: int) -> bytes:
    """Return an integer that is not negative: its digits to the base 10,000, after how many, their weight, 0, 0."""
    digits: list[int] = []
    while value:
        value, digit = divmod(value, 10_000)
        digits.insert(0, digit)
    return np.array([len(digits), max(len(digits) - 1, 0), 0, 0, *digits], ">i2").tobytes()


_FIXED: dict[str, Callable[[pa.Array], npt.NDArray[Any]]] = {
    "bool": _booleans,
    "int8": lambda column: _numbers(column, ">i8"),
    "float8": lambda column: _numbers(column, ">f8"),
    "date": lambda column: _numbers(column.cast(pa.int32()), ">i4", DAYS_TO_2000),
    "timestamp": lambda column: _numbers(column.cast(pa.int64()), ">i8", US_TO_2000),
    "timestamptz": lambda column: _numbers(column.cast(pa.int64()), ">i8", US_TO_2000),
    "uuid": _uuids,
}
_BY_VALUE: dict[str, Callable[[Any], bytes]] = {"jsonb": _json, "numeric": _numeric}
