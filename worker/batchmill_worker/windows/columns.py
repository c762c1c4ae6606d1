"""Between tables and windows: rows as arrivals, and what fires as a table with columns of fixed types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from batchmill.columns import values_of, widen_types
from batchmill.columns.lineage import SOURCE_ROW
from batchmill.streams.messages import MAX_TIME_MS, MIN_TIME_MS, times_ms
from batchmill_worker.windows.aggregates import Collect, Count, Mean, Top, Total

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchmill_worker.windows.aggregates import Aggregate
    from batchmill_worker.windows.stepping import Firing

_TIME = pa.timestamp("ms", "UTC")
_YEAR_MS = 366 * 86_400_000  # no window is longer
FIRST_MS, END_MS = MIN_TIME_MS + _YEAR_MS, MAX_TIME_MS - _YEAR_MS
"""Event times are between these, so that windows begin and end in the years 1 to 9999."""


def used_schema(rows: pa.Table, names: Sequence[str], known: pa.Schema) -> tuple[pa.Schema, dict[str, str]]:
    """Return the types of the columns that windows use: those known, widened by those of these rows.

    What fits the type known fits the one returned; integers beyond 2^53 that become floating-point numbers are rounded.
    Returns also what is wrong with columns of these rows, by name: those whose type does not fit the one known.
    """
    kinds = {field.name: field.type for field in known}
    unfit = {}
    for name in names:
        if name in rows.column_names:
            found, before = rows.schema.field(name).type, kinds.get(name)
            widened = found if before is None else _widened(before, found)
            if widened is None:
                unfit[name] = f"column {name!r}: expected {before}, as in the rows before, got {found}"
            else:
                kinds[name] = widened
    return pa.schema(list(kinds.items())), unfit


def _widened(before: pa.DataType, found: pa.DataType) -> pa.DataType | None:
    widened = widen_types(before, found)
    if widened is None or before.equals(found):
        return widened
    if pa.types.is_signed_integer(before) and pa.types.is_unsigned_integer(widened):
        return before  # the values before may be negative
    is_time = pa.types.is_timestamp(before) and pa.types.is_timestamp(widened)
    if is_time and widened.unit == "ns":
        return pa.timestamp("us", widened.tz)  # nanoseconds end in 2262
    return widened


def rows_in(rows: pa.Table, names: Sequence[str], schema: pa.Schema) -> Iterator[dict[str, Any] | str]:
    """Yield rows with the columns that windows use, or what is wrong with a row. One that a part lacks is null.

    schema: of the columns, as `used_schema` returns it.
    """
    columns: list[list[Any]] = []
    faults: dict[int, str] = {}
    for name in names:
        if name in rows.column_names:
            values, places, why = values_as(rows[name], schema.field(name).type)
            columns.append(values)
            why = f"column {name!r}: {why}, got {rows.schema.field(name).type}"
            faults = dict.fromkeys(places, why) | faults
        else:
            columns.append([None] * rows.num_rows)
    every = zip(*columns, strict=True) if columns else [()] * rows.num_rows
    for place, values_of_row in enumerate(every):
        yield faults.get(place) or dict(zip(names, values_of_row, strict=True))


def texts_in(rows: pa.Table, name: str) -> list[str]:
    """Return the values of a column as texts, whatever they are."""
    if name not in rows.column_names:
        return [str(None)] * rows.num_rows
    return [str(value) for value in values_as(rows[name], rows.schema.field(name).type)[0]]


def values_as(column: pa.ChunkedArray | pa.Array, kind: pa.DataType) -> tuple[list[Any], list[int], str]:
    """Return the values of a column, the places of those that windows cannot keep, and what was expected."""
    values, found = values_of(column), column.type
    has_no_times = pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_string(found)
    if not has_no_times and any(map(_is_no_python_time, values)):
        values = [values_of(column.slice(place, 1))[0] for place in range(len(values))]  # others in it make it so
        places = [place for place, value in enumerate(values) if _is_no_python_time(value)]
        return values, places, "expected times in microseconds, in the years 1 to 9999"
    if pa.types.is_integer(kind) and pa.types.is_integer(found) and not found.equals(kind):
        places = [place for place, value in enumerate(values) if value is not None and not _is_of(value, kind)]
        return values, places, f"expected a value of {kind}, as in the rows before"
    return values, [], ""


def _is_no_python_time(value: Any) -> bool:
    """Return whether a value is, or has within it, a time that Python has no type for."""
    if isinstance(value, dict):
        return any(map(_is_no_python_time, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_is_no_python_time, value))
    return isinstance(value, np.generic)


def _is_of(value: int, kind: pa.DataType) -> bool:
    bits: int = kind.bit_width
    if pa.types.is_signed_integer(kind):
        return -(1 << bits - 1) <= value < 1 << bits - 1
    return 0 <= value < 1 << bits


def times_of(rows: pa.Table, column: str) -> list[int | None]:
    """Return the event time of each row, in milliseconds since the epoch; None for what windows cannot take."""
    if column not in rows.column_names:
        return [None] * rows.num_rows
    return [at if at is not None and FIRST_MS <= at < END_MS else None for at in times_ms(rows[column])]


def table_of(
    firings: Sequence[Firing],
    numbers: Sequence[int],
    by: Sequence[str],
    aggregates: Mapping[str, Aggregate],
    schema: pa.Schema,
) -> pa.Table:
    """Return what fired as a table. numbers: of each; schema: of the columns that windows use.

    Raises `pyarrow.ArrowException` for a value that does not fit the type of its column.
    """
    columns: dict[str, pa.Array] = {SOURCE_ROW: pa.array(numbers, pa.int64())}
    for place, name in enumerate(by):
        columns[name] = _array([one.key[place] for one in firings], _type(schema, name))
    columns["window_id"] = pa.array([one.id for one in firings], pa.int64())
    columns["window_start"] = pa.array([one.start for one in firings], pa.int64()).cast(_TIME)
    columns["window_end"] = pa.array([one.end for one in firings], pa.int64()).cast(_TIME)
    columns["revision"] = pa.array([one.revision for one in firings], pa.int64())
    columns["merged_into"] = pa.array([one.merged_into for one in firings], pa.int64())
    for place, (name, aggregate) in enumerate(aggregates.items()):
        values = [one.results[place] if one.results else None for one in firings]
        kind = result_type(aggregate, schema)
        is_beyond = isinstance(aggregate, Total) and any(isinstance(value, float) for value in values)
        columns[name] = _array(values, pa.float64() if is_beyond else kind)
    return pa.table(columns)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Make a column of values that were kept as JSON, some of them before the column got its type."""
    try:
        return pa.array(values, kind)
    except (pa.ArrowException, OverflowError, TypeError):
        return pa.array([_shaped(value, kind) for value in values], kind)


def _shaped(value: Any, kind: pa.DataType) -> Any:
    """Return a value as its type takes it: JSON has lists for pairs, and large integers are no floats of themselves."""
    if value is None:
        return None
    if pa.types.is_floating(kind):
        return float(value)
    if pa.types.is_map(kind):
        return [(_shaped(key, kind.key_type), _shaped(item, kind.item_type)) for key, item in value]
    if pa.types.is_struct(kind):
        return {field.name: _shaped(value.get(field.name), field.type) for field in kind}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return [_shaped(one, kind.value_type) for one in value]
    return value


def result_type(aggregate: Aggregate, schema: pa.Schema) -> pa.DataType:
    """Return the type of the column that an aggregate makes; of sums of integers, as long as they fit it."""
    own = _type(schema, aggregate.column)
    match aggregate:
        case Count():
            return pa.int64()
        case Mean():
            return pa.float64()
        case Total():
            return pa.int64() if pa.types.is_integer(own) else pa.float64()
        case Collect() | Top():
            return pa.list_(own)
        case _:
            return own


def _type(schema: pa.Schema, name: str) -> pa.DataType:
    return schema.field(name).type if name in schema.names else pa.null()
