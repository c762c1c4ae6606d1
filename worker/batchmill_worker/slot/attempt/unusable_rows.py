"""Rows that the operator does not see: they cannot be read, or lack a value that the operator requires."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from batchmill.columns import rows_of
from batchmill.errors import InvalidRows
from batchmill.jobs.dead_letters import BAD_VALUE, INCOMPLETE, MISSING_VALUE, json_value, unfit_json_value
from batchmill.wording import count

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pyarrow as pa

    from batchmill.jobs.job import OnNull
    from batchmill.jobs.shard import Shard
    from batchmill.sources.base import BadRow, RowReader, RowsRead


@dataclass(frozen=True, slots=True)
class UnusableRow:
    """A row that fails without an attempt."""

    index: int  # in the job's input
    error_type: str
    message: str
    row: dict[str, Any]  # as JSON values; of a bad line, where it is and its text


@dataclass(frozen=True, slots=True)
class UnusableRows:
    """The rows of a shard that the operator does not see."""

    dead: tuple[UnusableRow, ...]  # in input order
    skipped: frozenset[int]  # by index in the job's input


def unusable_rows(
    shard: Shard,
    found: RowsRead,
    required: Sequence[str],
    on_null: OnNull,
    source: RowReader,
    name_of: Callable[[int], str] = str,
) -> UnusableRows:
    """Find the rows of a shard that cannot be used. `found`: the rows of its slices in `source`.

    name_of: the name of a row in messages, by its index.

    Raises `InvalidRows` naming the first row without a required value, if `on_null` says so.
    """
    first = shard.first_row - shard.skip
    behind = shard.first_row + shard.rows
    bad = {first + one.place: one for one in found.bad if shard.first_row <= first + one.place < behind}
    table = found.table.slice(shard.skip, shard.rows)
    rows = [
        UnusableRow(index, one.error_type, one.message, _shown(one, table, index - shard.first_row))
        for index, one in bad.items()
    ]
    missing = {row: name for row, name in _missing(table, required, shard.first_row).items() if row not in bad}
    if missing and on_null != "skip":
        rows += _without_value(shard, table, missing, source, on_null, name_of)
    skipped = frozenset(missing if on_null == "skip" else ())
    return UnusableRows(tuple(sorted(rows, key=lambda row: row.index)), skipped)


def _shown(bad: BadRow, table: pa.Table, place: int) -> dict[str, Any]:
    if bad.error_type in (INCOMPLETE, BAD_VALUE):
        return _as_json(table, place) | {name: unfit_json_value(value) for name, value in bad.values.items()}
    return {"file": bad.file, "line": bad.line, "text": bad.text}


def _as_json(table: pa.Table, place: int) -> dict[str, Any]:
    found: dict[str, Any] = json_value(rows_of(table.slice(place, 1))[0])
    return found


def _without_value(
    shard: Shard,
    table: pa.Table,
    missing: Mapping[int, str],
    source: RowReader,
    on_null: OnNull,
    name_of: Callable[[int], str],
) -> list[UnusableRow]:
    indexes = sorted(missing)[: 1 if on_null == "fail" else None]
    origins = source.origins(shard.slices, [shard.skip + index - shard.first_row for index in indexes])
    rows = []
    for index, origin in zip(indexes, origins, strict=True):
        where = f": {origin}" if origin else ""
        name, column = name_of(index), missing[index]
        message = f"row {name} has no value in the column {column!r}, which the operator requires{where}."
        rows.append(UnusableRow(index, MISSING_VALUE, message, _as_json(table, index - shard.first_row)))
    if on_null == "fail":
        raise InvalidRows(
            f"{rows[0].message.rstrip('.')}; {count(len(missing))} of {shard.rows:,} read together lack one.",
            hint='Give every row a value, or submit the job with on_null="dead": then such rows become dead letters; '
            'with "skip" they are left out.',
            row=rows[0].index,
        )
    return rows


def _missing(table: pa.Table, required: Sequence[str], first_row: int) -> dict[int, str]:
    """Return which rows lack a value, and the first column that they lack it in."""
    missing: dict[int, str] = {}
    for column in required:
        if column in table.column_names and table[column].null_count:
            places = pc.indices_nonzero(table[column].is_null()).to_pylist()
            missing = dict.fromkeys((first_row + place for place in places), column) | missing
    return missing
