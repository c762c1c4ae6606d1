"""Between tables and windows: rows as arrivals, and what fires as a table with columns of fixed types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.columns import values_of, widen_types
from batchmill.columns.lineage import SOURCE_ROW
from batchmill.streams.messages import MAX_TIME_MS, MIN_TIME_MS, times_ms
from batchmill_worker.windows.aggregates import Collect, Count, Mean, Top, Total

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchmill_worker.windows.aggregates import Aggregate
    from batchmill_worker.windows.stepping import Firing

MADE = ("window_id", "window_start", "window_end", "revision", "merged_into")
"""The columns of what fires, besides those of `by` and of the aggregates."""

_TIME = pa.timestamp("ms", "UTC")
_YEAR_MS = 366 * 86_400_000  # no window is longer
FIRST_MS, END_MS = MIN_TIME_MS + _YEAR_MS, MAX_TIME_MS - _YEAR_MS
"""Event times are between these, so that windows begin and end in the years 1 to 9999."""


def used_schema(rows: pa.Table, names: Sequence[str], known: pa.Schema) -> tuple[pa.Schema, dict[str, str]]:
    """Return the types of the columns that windows use: those known, widened by those of these rows.

    Returns also what is wrong with columns of these rows, by name: those whose type does not fit the one known.
    """
    kinds = {field.name: field.type for field in known}
    unfit = {}
    for name in names:
        if name in rows.column_names:
            found, before = rows.schema.field(name).type, kinds.get(name)
            widened = found if before is None else widen_types(before, found)
            if widened is None:
                unfit[name] = f"column {name!r}: expected {before}, as in the rows before, got {found}"
            else:
                kinds[name] = widened
    return pa.schema(list(kinds.items())), unfit


def rows_in(rows: pa.Table, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield rows with the columns that windows use; one that a part lacks is null."""
    columns = [values_of(rows[name]) if name in rows.column_names else [None] * rows.num_rows for name in names]
    for values in zip(*columns, strict=True) if columns else [()] * rows.num_rows:
        yield dict(zip(names, values, strict=True))


def times_of(rows: pa.Table, column: str) -> list[int | None]:
    """Return the event time of each row, in milliseconds since the epoch; None for what windows cannot take."""
    if column not in rows.column_names:
        return [None] * rows.num_rows
    return [at if at is not None and FIRST_MS <= at < END_MS else None for at in times_ms(rows[column])]


def table_of(
    firings: Sequence[Firing], first: int, by: Sequence[str], aggregates: Mapping[str, Aggregate], schema: pa.Schema
) -> pa.Table:
    """Return what fired as a table. first: how many fired before; schema: of the columns that windows use.

    Raises `pyarrow.ArrowException` for a value that does not fit the type of its column.
    """
    columns: dict[str, pa.Array] = {SOURCE_ROW: pa.array(range(first, first + len(firings)), pa.int64())}
    for place, name in enumerate(by):
        columns[name] = pa.array([one.key[place] for one in firings], _type(schema, name))
    columns["window_id"] = pa.array([one.id for one in firings], pa.int64())
    columns["window_start"] = pa.array([one.start for one in firings], pa.int64()).cast(_TIME)
    columns["window_end"] = pa.array([one.end for one in firings], pa.int64()).cast(_TIME)
    columns["revision"] = pa.array([one.revision for one in firings], pa.int64())
    columns["merged_into"] = pa.array([one.merged_into for one in firings], pa.int64())
    for place, (name, aggregate) in enumerate(aggregates.items()):
        values = [one.results[place] if one.results else None for one in firings]
        kind = result_type(aggregate, schema)
        is_beyond = isinstance(aggregate, Total) and any(isinstance(value, float) for value in values)
        columns[name] = pa.array(values, pa.float64() if is_beyond else kind)
    return pa.table(columns)


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
