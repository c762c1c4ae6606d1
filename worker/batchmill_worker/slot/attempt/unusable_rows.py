"""Rows that are dead before the operator sees them: they cannot be read, or lack a value that the operator requires."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pyarrow.compute as pc

from batchmill.errors import InvalidRows
from batchmill.jobs.dead_letters import MISSING_VALUE, json_value
from batchmill.wording import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from batchmill.jobs.shard import Shard
    from batchmill.sources.base import RowsRead


@dataclass(frozen=True, slots=True)
class UnusableRow:
    """A row that fails without an attempt."""

    index: int  # in the job's input
    error_type: str
    message: str
    row: dict[str, Any]  # as JSON values; of a bad line, where it is and its text


def unusable_rows(
    shard: Shard, found: RowsRead, required: Sequence[str], on_null: Literal["dead", "fail"]
) -> list[UnusableRow]:
    """Find the rows of a shard that cannot be used, in input order. `found`: the rows of its slices.

    Raises `InvalidRows` naming the first row without a required value, if `on_null` says so.
    """
    first = shard.first_row - shard.skip
    behind = shard.first_row + shard.rows
    bad = {first + one.place: one for one in found.bad if shard.first_row <= first + one.place < behind}
    rows = [
        UnusableRow(index, one.error_type, one.message, {"file": one.file, "line": one.line, "text": one.text})
        for index, one in bad.items()
    ]
    table = found.table.slice(shard.skip, shard.rows)
    for index, column in sorted(_missing(table, required, shard.first_row).items()):
        if index in bad:
            continue
        message = f"row {index} has no value in the column {column!r}, which the operator requires."
        row = json_value(table.slice(index - shard.first_row, 1).to_pylist()[0])
        rows.append(UnusableRow(index, MISSING_VALUE, message, row))
    missing = [row for row in rows if row.error_type == MISSING_VALUE]
    if missing and on_null == "fail":
        raise InvalidRows(
            f"{missing[0].message.rstrip('.')}; {count(len(missing))} of {shard.rows:,} read together lack one.",
            hint='Give every row a value, or submit the job with on_null="dead": then such rows become dead letters.',
            row=missing[0].index,
        )
    return sorted(rows, key=lambda row: row.index)


def _missing(table: pa.Table, required: Sequence[str], first_row: int) -> dict[int, str]:
    """Return which rows lack a value, and the first column that they lack it in."""
    missing: dict[int, str] = {}
    for column in required:
        if column in table.column_names and table[column].null_count:
            places = pc.indices_nonzero(table[column].is_null()).to_pylist()
            missing = dict.fromkeys((first_row + place for place in places), column) | missing
    return missing
