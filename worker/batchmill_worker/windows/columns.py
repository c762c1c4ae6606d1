"""Between tables and windows: rows as arrivals, and what fires as a table with columns of fixed types."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.columns import values_of, widen_schemas
from batchmill.columns.lineage import SOURCE_ROW
from batchmill.streams.messages import parse_time_ms
from batchmill_worker.windows.aggregates import Collect, Count, Mean, Top, Total

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from batchmill_worker.windows.aggregates import Aggregate
    from batchmill_worker.windows.stepping import Firing

MADE = ("window_id", "window_start", "window_end", "revision", "merged_into")
"""The columns of what fires, besides those of `by` and of the aggregates."""

_TIME = pa.timestamp("ms", "UTC")


def used_schema(rows: pa.Table, names: Sequence[str], known: pa.Schema) -> pa.Schema:
    """Return the types of the columns that windows use: those known, widened by those of these rows."""
    own = pa.schema([rows.schema.field(name) for name in names if name in rows.column_names])
    return widen_schemas(known, own) if len(known) else own


def rows_in(rows: pa.Table, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield rows with the columns that windows use; one that a part lacks is null."""
    columns = [values_of(rows[name]) if name in rows.column_names else [None] * rows.num_rows for name in names]
    for values in zip(*columns, strict=True) if columns else [()] * rows.num_rows:
        yield dict(zip(names, values, strict=True))


def times_of(rows: pa.Table, column: str) -> list[int | None]:
    """Return the event time of each row, in milliseconds since the epoch; None for what is none."""
    if column not in rows.column_names:
        return [None] * rows.num_rows
    values = rows[column]
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        found: list[int | None] = values.cast(pa.timestamp("ms"), safe=False).cast(pa.int64()).to_pylist()
        return found
    return [parse_time_ms(value) for value in values.to_pylist()]


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
        columns[name] = pa.array(values, result_type(aggregate, schema))
    return pa.table(columns)


def result_type(aggregate: Aggregate, schema: pa.Schema) -> pa.DataType:
    """Return the type of the column that an aggregate makes."""
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
