"""Digests of rows, by which the row cache finds them, computed from Arrow's buffers column by column. Pure.

Two rows have the same digest exactly if all their columns have the same names, types and values, or their keys are the
same. Every column becomes a matrix of bytes with a line for each row: its values if they have a fixed width, else their
digests, and a byte that marks a null. The lines of all columns, side by side, are digested.
"""

from __future__ import annotations

import secrets
from hashlib import blake2b
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchmill.columns import values_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DIGEST_BYTES = 16

Matrix = npt.NDArray[np.uint8]


def content_digests(table: pa.Table, space: bytes) -> list[bytes]:
    """Compute a digest for each row, of all its columns.

    space: at most 64 bytes; equal rows in different spaces have different digests.
    """
    schema = repr([(field.name, str(field.type)) for field in table.schema])
    key = blake2b(schema.encode(), digest_size=DIGEST_BYTES, key=space).digest()
    lines = [_matrix(_one_array(column)) for column in table.columns]
    joined = np.ascontiguousarray(np.hstack(lines)) if lines else np.empty((table.num_rows, 0), dtype=np.uint8)
    data, width = joined.tobytes(), joined.shape[1]
    return [
        blake2b(data[start : start + width], digest_size=DIGEST_BYTES, key=key).digest()
        for start in range(0, table.num_rows * width, width or 1)
    ] or [blake2b(digest_size=DIGEST_BYTES, key=key).digest()] * table.num_rows


def key_digests(
    rows: Sequence[dict[str, Any]], row_key: Callable[[dict[str, Any]], str | bytes], space: bytes
) -> list[bytes]:
    """Compute a digest for each row, of its key. A row for which `row_key` raises has a unique one."""
    return [_key_digest(row, row_key, space) for row in rows]


def _key_digest(row: dict[str, Any], row_key: Callable[[dict[str, Any]], str | bytes], space: bytes) -> bytes:
    try:
        key = row_key(row)
        data = b"t" + key.encode("utf-8", "surrogatepass") if isinstance(key, str) else b"b" + key
    except BaseException:  # noqa: BLE001  # user code: infer() will report the error of that row
        return secrets.token_bytes(DIGEST_BYTES)
    return blake2b(data, digest_size=DIGEST_BYTES, key=space).digest()


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # longer than 2 GiB: Arrow then keeps several chunks
        raise pa.ArrowCapacityError("a column is too long to be digested in one piece")
    return array.storage if isinstance(array.type, pa.BaseExtensionType) else array


def _matrix(array: pa.Array) -> Matrix:
    """Return a line of bytes for each value: the value, and whether it is null."""
    valid = np.asarray(array.is_valid()).astype(np.uint8).reshape(-1, 1)
    values = _values(array)
    if array.null_count:
        values = values * valid  # the bytes of a null are undefined
    return np.hstack([values, valid])


def _values(array: pa.Array) -> Matrix:
    kind = array.type
    if pa.types.is_null(kind):
        return np.empty((len(array), 0), dtype=np.uint8)
    if pa.types.is_boolean(kind):
        return _fixed(array.cast(pa.uint8()), 1)
    if pa.types.is_primitive(kind) or pa.types.is_decimal(kind):
        return _fixed(array, kind.bit_width // 8)
    if pa.types.is_fixed_size_binary(kind):
        return _fixed(array, kind.byte_width)
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        inner = _matrix(array.values.slice(array.offset * size, len(array) * size))
        return inner.reshape(len(array), size * inner.shape[1])
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return _values(array.cast(pa.large_binary()))
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return _of_any_length(array, np.dtype(np.int32))
    if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind):
        return _of_any_length(array, np.dtype(np.int64))
    return _digested([repr(value).encode("utf-8", "surrogatepass") for value in values_of(array)])


def _fixed(array: pa.Array, width: int) -> Matrix:
    if len(array) == 0 or width == 0:
        return np.zeros((len(array), width), dtype=np.uint8)
    buffer = array.buffers()[1]
    data = np.frombuffer(buffer, dtype=np.uint8, count=len(array) * width, offset=array.offset * width)
    return data.reshape(len(array), width)


def _of_any_length(array: pa.Array, offset_type: np.dtype[Any]) -> Matrix:
    _, offsets_buffer, data_buffer = array.buffers()
    if len(array) == 0:
        return _digested([])
    skipped = array.offset * offset_type.itemsize
    offsets = np.frombuffer(offsets_buffer, dtype=offset_type, count=len(array) + 1, offset=skipped).tolist()
    data = memoryview(data_buffer) if data_buffer is not None else memoryview(b"")
    return _digested([data[start:end] for start, end in pairwise(offsets)])


def _digested(values: Sequence[bytes | memoryview]) -> Matrix:
    joined = b"".join([blake2b(value, digest_size=DIGEST_BYTES).digest() for value in values])
    return np.frombuffer(joined, dtype=np.uint8).reshape(len(values), DIGEST_BYTES)
