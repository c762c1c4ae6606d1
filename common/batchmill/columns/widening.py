"""The one rule for two types of a column, in inputs, results and outputs: the type that holds the values of both.

A column never changes its kind: text stays text, and bytes stay bytes. A value that the wider type cannot hold after
all, such as 2^53 + 1 among fractions, -1 beside uint64, or a time beyond the years of nanoseconds, is an error where it
is read or written; it is never changed.
"""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from batchmill.columns.python_values import values_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_UTC = frozenset({"UTC", "Etc/UTC", "Z", "+00:00", "-00:00"})
_BITS = (8, 16, 32, 64)

_SIGNED = dict(zip(_BITS, (pa.int8(), pa.int16(), pa.int32(), pa.int64()), strict=True))
_UNSIGNED = dict(zip(_BITS, (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()), strict=True))
_UNITS = ("s", "ms", "us", "ns")


class TypeConflictError(TypeError):
    """A column has two types that no type holds both of, or a value that does not fit the wider one."""

    def __init__(self, column: str, known: pa.DataType, found: pa.DataType, reason: str = "") -> None:
        super().__init__(f"column {column!r} is {found} here and {known} elsewhere{reason and f': {reason}'}")
        self.column = column
        self.known = known
        self.found = found


class UnfitValue(NamedTuple):
    """A value that the type of its column does not hold."""

    place: int  # of its row
    column: str
    type: pa.DataType  # of the value
    value: Any
    reason: str  # a clause


def widen_types(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    """Return the type that holds the values of both, or None if there is none."""
    if left.equals(right):
        return left
    for one, other in ((left, right), (right, left)):
        if types.is_null(one):
            return other
        if types.is_dictionary(one):
            return widen_types(one.value_type, other.value_type if types.is_dictionary(other) else other)
    return next((found for rule in _RULES if (found := rule(left, right)) is not None), None)


def widen_schemas(known: pa.Schema, found: pa.Schema) -> pa.Schema:
    """Return the schema that holds the rows of both: the columns of the first, then those that only the second has.

    Raises `TypeConflictError`.
    """
    kinds = {field.name: field.type for field in known}
    for field in found:
        before = kinds.setdefault(field.name, field.type)
        widened = widen_types(before, field.type)
        if widened is None:
            raise TypeConflictError(field.name, before, field.type)
        kinds[field.name] = widened
    return pa.schema(list(kinds.items()))


def widen_table(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the table with exactly this schema; a column that it lacks is null.

    Raises `TypeConflictError` for a value that does not fit.
    """
    if table.schema.equals(schema):
        return table
    names = set(table.column_names)
    columns = [
        _cast(table.column(field.name), field) if field.name in names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def join_what_fits(tables: Sequence[pa.Table]) -> tuple[pa.Table, list[UnfitValue]]:
    """Append tables to each other; a column that one lacks is null in its rows, and so is a value that does not fit.

    The type of a column is that of the first table that has it, widened by those of the tables behind that it can be
    widened by. So it depends on nothing but the tables and their order.
    """
    kinds: dict[str, pa.DataType] = {}
    for field in (field for table in tables for field in table.schema):
        before = kinds.setdefault(field.name, field.type)
        kinds[field.name] = widen_types(before, field.type) or before
    schema = pa.schema(list(kinds.items()))
    pieces, unfit, first = list[pa.Table](), list[UnfitValue](), 0
    for table in tables:
        columns = []
        for name, kind in kinds.items():
            column = table[name] if name in table.column_names else pa.chunked_array([pa.nulls(table.num_rows, kind)])
            fitting, places = _what_fits(column, kind)
            columns.append(fitting)
            unfit += (_unfit_value(name, kind, column, place, first) for place in places)
        pieces.append(pa.table(columns, schema=schema))
        first += table.num_rows
    return pa.concat_tables(pieces) if pieces else schema.empty_table(), sorted(unfit, key=lambda one: one.place)


def _unfit_value(name: str, kind: pa.DataType, column: pa.ChunkedArray, place: int, first: int) -> UnfitValue:
    value = values_of(column.slice(place, 1))[0]
    shown = reprlib.repr(value)  # lists may be long
    reason = f"column {name!r}: expected {kind}, as in other rows of the shard, got {column.type} {shown}"
    return UnfitValue(first + place, name, column.type, value, reason)


def _what_fits(column: pa.ChunkedArray, kind: pa.DataType) -> tuple[pa.ChunkedArray, list[int]]:
    """Return a column with this type, null where a value does not fit, and where that is."""
    if column.type.equals(kind):
        return column, []
    if widen_types(kind, column.type) is not None and _can_cast(column, kind):  # Arrow would make numbers of texts too
        try:
            return column.cast(kind), []
        except pa.ArrowException:
            half = len(column) // 2
        if half:
            (left, places), (right, behind) = _what_fits(column[:half], kind), _what_fits(column[half:], kind)
            joined = pa.chunked_array([*left.chunks, *right.chunks], kind)
            return joined, [*places, *(half + place for place in behind)]
    return pa.chunked_array([pa.nulls(len(column), kind)]), pc.indices_nonzero(column.is_valid()).to_pylist()


def _can_cast(column: pa.ChunkedArray, kind: pa.DataType) -> bool:
    try:
        column[:0].cast(kind)
    except pa.ArrowException:
        return False
    return True


def _cast(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    try:
        return column if column.type.equals(field.type) else column.cast(field.type)
    except pa.ArrowException as error:
        raise TypeConflictError(field.name, field.type, column.type, str(error).splitlines()[0]) from error


def _numbers(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    kinds = (left, right)
    if all(map(types.is_integer, kinds)):
        return _integers(left, right)
    if all(map(types.is_floating, kinds)):
        return max(kinds, key=lambda kind: kind.bit_width)
    if all(types.is_integer(kind) or types.is_floating(kind) for kind in kinds):
        return pa.float64()
    if all(types.is_decimal(kind) or types.is_integer(kind) for kind in kinds):
        return _by_arrow(left, right)
    return None


def _integers(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    signed, unsigned = (left, right) if types.is_signed_integer(left) else (right, left)
    if types.is_signed_integer(unsigned) or types.is_unsigned_integer(signed):
        return max(left, right, key=lambda kind: kind.bit_width)
    if unsigned.bit_width == 64:
        return _UNSIGNED[64]
    return _SIGNED[max(signed.bit_width, 2 * unsigned.bit_width)]


def _texts(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    for is_kind, small, large in (
        (_is_text, pa.string(), pa.large_string()),
        (_is_binary, pa.binary(), pa.large_binary()),
    ):
        if is_kind(left) and is_kind(right):
            return large if large in (left, right) else small
    return None


def _is_text(kind: pa.DataType) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    is_any_size = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return bool(is_any_size or types.is_fixed_size_binary(kind))


def _times(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    kinds = (left, right)
    if all(map(types.is_timestamp, kinds)):
        zones = {"UTC" if kind.tz in _UTC else kind.tz for kind in kinds}
        return pa.timestamp(_finer(left, right), zones.pop()) if len(zones) == 1 else None
    if all(map(types.is_duration, kinds)):
        return pa.duration(_finer(left, right))
    if all(map(types.is_time, kinds)):
        unit = _finer(left, right)
        return pa.time64(unit) if unit in ("us", "ns") else pa.time32(unit)
    return pa.date64() if all(map(types.is_date, kinds)) else None


def _finer(left: pa.DataType, right: pa.DataType) -> str:
    unit: str = max(left.unit, right.unit, key=_UNITS.index)
    return unit


def _lists(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    if not (_is_list(left) and _is_list(right)):
        return None
    value = widen_types(left.value_type, right.value_type)
    if value is None:
        return None
    is_large = any(types.is_large_list(kind) or types.is_large_list_view(kind) for kind in (left, right))
    return pa.large_list(value) if is_large else pa.list_(value)


def _is_list(kind: pa.DataType) -> bool:
    return any(
        is_kind(kind)
        for is_kind in (
            types.is_list,
            types.is_large_list,
            types.is_fixed_size_list,
            types.is_list_view,
            types.is_large_list_view,
        )
    )


def _structs(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    if not (types.is_struct(left) and types.is_struct(right)):
        return None
    kinds = {field.name: field.type for field in left}
    for field in right:
        united = widen_types(kinds.get(field.name, field.type), field.type)
        if united is None:
            return None
        kinds[field.name] = united
    return pa.struct(list(kinds.items()))


def _maps(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    if not (types.is_map(left) and types.is_map(right)):
        return None
    key, item = widen_types(left.key_type, right.key_type), widen_types(left.item_type, right.item_type)
    return None if key is None or item is None else pa.map_(key, item)


def _by_arrow(left: pa.DataType, right: pa.DataType) -> pa.DataType | None:
    fields = [pa.schema([pa.field("value", kind)]) for kind in (left, right)]
    try:
        united: pa.DataType = pa.unify_schemas(fields, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None
    return united


_RULES: tuple[Callable[[pa.DataType, pa.DataType], pa.DataType | None], ...] = (
    _numbers,
    _texts,
    _times,
    _lists,
    _structs,
    _maps,
)
