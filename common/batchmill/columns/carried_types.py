"""The Arrow types that Batchmill carries, and the conversion of others to them, where rows enter.

1. A type says how values are encoded as well as what they are. Encodings that Arrow's own functions and file formats
   support only in part are decoded: views, run ends, dictionaries inside other types or of values other than text.
2. A dictionary of text, which is how categories come, is kept, with 32-bit indices and without null entries, so that
   the dictionaries of several chunks can be united.
3. Decimals of 32 and 64 bits become decimals of 128 bits.
4. Unions and calendar intervals are refused: neither Parquet nor JSON nor numpy can hold them.

Decoding can make a small column large. `carry` computes the size first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Sequence

RESERVED_PREFIX = "__batchmill_"
"""Names of columns that begin so are Batchmill's own."""

MAX_DECODED_BYTES = 1024 * 1024 * 1024
"""A column of one table may take this much when it is decoded."""

_INDEX = pa.int32()
_types = pa.types


class UnsupportedColumnError(TypeError):
    """A column has a type that no batch format and no output can hold."""

    def __init__(self, column: str, kind: pa.DataType) -> None:
        super().__init__(f"column {column!r} is {kind}, which is not supported")
        self.column = column
        self.kind = kind


class ColumnTooLargeError(ValueError):
    """A column is too large once it is decoded."""


def reserved_column(names: Sequence[str]) -> str | None:
    """Return the first name that is Batchmill's own, or None."""
    return next((name for name in names if name.startswith(RESERVED_PREFIX)), None)


def carried_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema that rows of another one are carried with. Raises `UnsupportedColumnError`."""
    return pa.schema([pa.field(field.name, _carried_column(field)) for field in schema])


def carry(table: pa.Table, max_decoded_bytes: int = MAX_DECODED_BYTES) -> pa.Table:
    """Convert the columns of a table to types that are carried.

    Raises `UnsupportedColumnError`, and `ColumnTooLargeError` for a column that takes more than `max_decoded_bytes`
    when it is decoded.
    """
    schema, before = carried_schema(table.schema), table.columns
    columns = [_carry_column(column, field, max_decoded_bytes) for column, field in zip(before, schema, strict=True)]
    if all(new is old for new, old in zip(columns, before, strict=True)):
        return table
    return pa.table(columns, schema=schema)


def _carried_column(field: pa.Field) -> pa.DataType:
    kind = field.type
    try:
        if _types.is_dictionary(kind) and _is_plain_text(kind.value_type):
            return pa.dictionary(_INDEX, kind.value_type, ordered=kind.ordered)
        if isinstance(kind, pa.BaseExtensionType) and _carried(kind.storage_type) == kind.storage_type:
            return kind
        return _carried(kind)
    except TypeError:
        raise UnsupportedColumnError(field.name, kind) from None


def _carried(kind: pa.DataType) -> pa.DataType:
    """Return the type that is carried for another one, dictionaries decoded. Raises `TypeError` if there is none."""
    if isinstance(kind, pa.BaseExtensionType):
        return _carried(kind.storage_type)
    if _types.is_dictionary(kind) or _types.is_run_end_encoded(kind):
        return _carried(kind.value_type)
    if _types.is_union(kind) or _types.is_interval(kind):
        raise TypeError(kind)
    if _types.is_nested(kind):
        return _carried_nested(kind)
    if _types.is_string_view(kind):
        return pa.large_string()
    if _types.is_binary_view(kind):
        return pa.large_binary()
    if _types.is_decimal32(kind) or _types.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    return kind


def _carried_nested(kind: pa.DataType) -> pa.DataType:
    if _types.is_struct(kind):
        return pa.struct([pa.field(field.name, _carried(field.type)) for field in kind])
    if _types.is_map(kind):
        return pa.map_(_carried(kind.key_type), _carried(kind.item_type))
    if _types.is_fixed_size_list(kind):
        return pa.list_(_carried(kind.value_type), kind.list_size)
    if _types.is_large_list(kind) or _types.is_large_list_view(kind):
        return pa.large_list(_carried(kind.value_type))
    return pa.list_(_carried(kind.value_type))


def _is_plain_text(kind: pa.DataType) -> bool:
    return bool(_types.is_string(kind) or _types.is_large_string(kind))


def _carry_column(column: pa.ChunkedArray, field: pa.Field, max_bytes: int) -> pa.ChunkedArray:
    kind = field.type
    dictionary = _types.is_dictionary(kind)
    if column.type == kind and not (dictionary and any(chunk.dictionary.null_count for chunk in column.chunks)):
        return column
    if dictionary:
        return pa.chunked_array([_flat_dictionary(chunk, kind, max_bytes) for chunk in column.chunks], kind)
    budget = _Budget(field.name, max_bytes)
    return pa.chunked_array([_decode(chunk, kind, budget) for chunk in column.chunks], kind)


def _flat_dictionary(array: pa.DictionaryArray, kind: pa.DataType, max_bytes: int) -> pa.Array:
    """Give a dictionary of text 32-bit indices, and no null among its entries."""
    if array.dictionary.null_count:
        decoded = _decode(array, kind.value_type, _Budget("", max_bytes)).dictionary_encode()
        return pa.DictionaryArray.from_arrays(decoded.indices, decoded.dictionary, ordered=kind.ordered)
    return pa.DictionaryArray.from_arrays(array.indices.cast(_INDEX), array.dictionary, ordered=kind.ordered)


class _Budget:
    """The bytes that a column may still take when its chunks are decoded."""

    def __init__(self, column: str, max_bytes: int) -> None:
        self._column = column
        self._left = max_bytes
        self._max = max_bytes

    def take(self, size: int) -> None:
        """Use some of it up. Raises `ColumnTooLargeError`."""
        self._left -= size
        if self._left < 0:
            raise ColumnTooLargeError(
                f"column {self._column!r} takes more than {self._max:,} bytes once its dictionaries or runs are decoded"
            )


def _decode(array: pa.Array, kind: pa.DataType, budget: _Budget) -> pa.Array:
    """Convert an array to a carried type."""
    if array.type == kind:
        return array
    if isinstance(array.type, pa.BaseExtensionType):
        return _decode(array.storage, kind, budget)
    if _types.is_dictionary(array.type):
        values = _decode(array.dictionary, kind, budget)
        budget.take(_taken_bytes(values, array.indices))
        return values.take(array.indices)
    if _types.is_run_end_encoded(array.type):
        values = _decode(array.values, kind, budget)
        runs = pa.RunEndEncodedArray.from_arrays(array.run_ends, pa.array(range(len(values)), pa.int32()))
        slots = pc.run_end_decode(runs).slice(array.offset, len(array))
        budget.take(_taken_bytes(values, slots))
        return values.take(slots)
    return _decode_nested(array, kind, budget) if _types.is_nested(array.type) else array.cast(kind)


def _decode_nested(array: pa.Array, kind: pa.DataType, budget: _Budget) -> pa.Array:
    missing = array.is_null() if array.null_count else None
    if _types.is_struct(kind):
        children = [_decode(child, field.type, budget) for child, field in zip(array.flatten(), kind, strict=True)]
        return pa.StructArray.from_arrays(children, fields=list(kind), mask=missing)
    if _types.is_fixed_size_list(kind):
        # Values below a null are not in the flattened ones, so slots of them are made.
        size = kind.list_size
        values = array.values.slice(array.offset * size, len(array) * size)
        return pa.FixedSizeListArray.from_arrays(_decode(values, kind.value_type, budget), type=kind, mask=missing)
    if _types.is_map(kind):
        return _decode_map(array, kind, budget)
    large = _types.is_large_list(kind)
    offsets = _offsets(array) if large else _offsets(array).cast(pa.int32())
    values = _decode(pc.list_flatten(array), kind.value_type, budget)
    made = pa.LargeListArray if large else pa.ListArray
    return made.from_arrays(offsets, values, type=kind, mask=missing)


def _decode_map(array: pa.MapArray, kind: pa.DataType, budget: _Budget) -> pa.Array:
    entries = array.cast(pa.list_(pa.struct({"key": array.type.key_type, "value": array.type.item_type})))
    keys, items = pc.list_flatten(entries).flatten()
    decoded = (_decode(keys, kind.key_type, budget), _decode(items, kind.item_type, budget))
    missing = array.is_null() if array.null_count else None
    return pa.MapArray.from_arrays(_offsets(entries).cast(pa.int32()), *decoded, type=kind, mask=missing)


def _offsets(lists: pa.Array) -> pa.Array:
    """Where each list begins in the flattened values, and where the last one ends."""
    ends = pc.cumulative_sum(pc.fill_null(pc.list_value_length(lists), 0).cast(pa.int64()))
    return pa.concat_arrays([pa.array([0], pa.int64()), ends])


def _taken_bytes(values: pa.Array, slots: pa.Array) -> int:
    """How many bytes the values at these slots take together."""
    if _types.is_binary(values.type) or _types.is_large_binary(values.type) or _is_plain_text(values.type):
        return int(pc.sum(pc.binary_length(values).take(slots).cast(pa.int64())).as_py() or 0)
    return int(values.nbytes / max(len(values), 1) * len(slots))
