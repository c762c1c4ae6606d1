"""Assembles the results of a shard's batches in input order, with the columns that the job carries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from batchmill.columns import RESERVED_PREFIX, reserved_column
from batchmill.columns.lineage import SOURCE_ROW
from batchmill.errors import InvalidOperator, InvalidRows, did_you_mean
from batchmill.stage_inputs.gathered_results import first_values
from batchmill_worker.engine.batches import join

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from batchmill.operators.contract import OperatorDefinition
    from batchmill_worker.batching.packing import Rows
    from batchmill_worker.engine.batches import BatchResult


@dataclass(frozen=True, slots=True, eq=False)
class CompletedBatch:
    """A finished batch: its rows, and what the operator returned for them."""

    rows: Rows
    result: BatchResult

    @property
    def sources(self) -> Rows:
        """The row that each result was made from; as long as the results."""
        if self.result.counts is not None:
            return np.repeat(self.rows, self.result.counts)
        return np.delete(self.rows, list(self.result.errors)) if self.result.errors else self.rows


def check_carry(table: pa.Table, carry: Sequence[str] | None) -> None:
    """Raise `InvalidRows` if a column that the job carries is missing."""
    for name in carry or ():
        if name not in table.column_names:
            raise InvalidRows(
                f"the job carries the column {name!r}, which its rows do not have.",
                hint=did_you_mean(name, table.column_names),
                column=name,
            )


def assemble(
    definition: OperatorDefinition, table: pa.Table, carried: Sequence[str], completed: Sequence[CompletedBatch]
) -> tuple[pa.Table, Rows, tuple[str, ...]]:
    """Return the results in input order, the row of `table` that each was made from, and the columns that were made.

    A column that the operator makes replaces the carried one of that name, in its place. Raises `InvalidOperator` for
    results without a column, or with one that is Batchmill's own or that the operator did not announce.
    """
    made: dict[str, Any] = join(definition, [batch.result for batch in completed])
    sources = np.concatenate([batch.sources for batch in completed]) if completed else np.empty(0, dtype=np.int64)
    if definition.expands and SOURCE_ROW in made:
        raise InvalidOperator(
            f"operator {definition.name!r} made a column {SOURCE_ROW!r}, which Batchmill adds itself.",
            hint="Give it another name.",
        )
    reserved = reserved_column(list(made))
    if reserved is not None:
        raise InvalidOperator(
            f"operator {definition.name!r} made a column {reserved!r}: names that begin with {RESERVED_PREFIX!r} are "
            "Batchmill's own.",
            hint="Give it another name.",
        )
    _check_declared(definition, made, table.column_names)
    if np.any(np.diff(sources) < 0):
        order = np.argsort(sources, kind="stable")
        sources = sources[order]
        made = {name: column.take(pa.array(order)) for name, column in made.items()}
    own = {SOURCE_ROW} if definition.expands else set()
    carried = [name for name in carried if name not in own]
    names = [*carried, *(name for name in made if name not in carried)]
    if not (names or own) and sources.size:
        raise InvalidOperator(
            f"operator {definition.name!r} made no column, and the job carries none.",
            hint="Results would be empty: carry a column, or return one.",
        )
    kept = table.select([name for name in carried if name not in made])
    kept = _pick(first_values(kept) if definition.gathers else kept, sources)
    if not names:
        return _without_columns(sources.size), sources, ()
    columns = {name: made[name] if name in made else kept.column(name) for name in names}
    return pa.table(columns), sources, tuple(made)


def _check_declared(definition: OperatorDefinition, made: Iterable[str], columns: Sequence[str]) -> None:
    if definition.makes is None:
        return
    undeclared = [name for name in made if name not in definition.makes and name not in columns]
    if undeclared:
        raise InvalidOperator(
            f"operator {definition.name!r} made the column {undeclared[0]!r}, but announces only: "
            f"{', '.join(definition.makes) or 'none'}.",
            hint=did_you_mean(undeclared[0], definition.makes) or "Add the column to makes=[…] of the operator.",
            operator=definition.name,
        )


def _without_columns(rows: int) -> pa.Table:
    return pa.table({"_": pa.nulls(rows)}).select([])


def _pick(table: pa.Table, sources: Rows) -> pa.Table:
    if np.array_equal(sources, np.arange(sources.size)):
        return table.slice(0, sources.size)
    return table.take(pa.array(sources))
