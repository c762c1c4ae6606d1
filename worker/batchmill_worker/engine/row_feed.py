"""The rows of a shard in its operator's batch format, and the cost of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from batchmill.columns import rows_of
from batchmill.errors import BatchmillError, InvalidOperator
from batchmill_worker.engine.batches import to_batch
from batchmill_worker.runtime.failures import Failure, operator_failed
from batchmill_worker.runtime.slot_board import Hook

if TYPE_CHECKING:
    from batchmill_worker.batching.cost_model import Floats
    from batchmill_worker.batching.packing import Packed
    from batchmill_worker.models.ready_operator import ReadyOperator

MIN_COST = 1e-6
ROWS_PER_CALL = 64
"""Rows per call of `costs`: between two calls the batches of other shards are prepared."""


class RowFeed:
    """Converts a shard's rows to batches. Used by one thread at a time."""

    def __init__(self, operator: ReadyOperator, table: pa.Table) -> None:
        self._operator = operator
        self._definition = operator.definition
        self._table = table
        self._known: dict[
            int, dict[str, Any]
        ] = {}  # rows that were converted for their costs and are not in a batch yet

    def costs(self, start: int, end: int) -> Floats:
        """Return the costs of the rows from one index up to another.

        Raises `OperatorFailed` when `costs` raises, `InvalidOperator` for costs that are not valid numbers.
        """
        if self._operator.costs is not None:
            return np.concatenate(
                [self._ask(first, min(first + ROWS_PER_CALL, end)) for first in range(start, end, ROWS_PER_CALL)]
            )
        if self._operator.cost is not None:
            with self._operator.guard.calling(Hook.COSTS):
                return self._checked(self._one_by_one(self._operator.cost, start, end), end - start)
        return np.ones(end - start)

    def batch(self, packed: Packed) -> Any:
        """Return the rows of a batch in the operator's batch format."""
        known = [self._known.pop(row, None) for row in packed.rows.tolist()] if self._known else []
        if known and all(row is not None for row in known):
            return known
        if packed.is_run:
            rows = self._table.slice(int(packed.rows[0]), packed.rows.size)
        else:
            rows = self._table.take(pa.array(packed.rows))
        return to_batch(self._definition.batch_format, rows)

    def _ask(self, start: int, end: int) -> Floats:
        try:
            costs = self._operator.costs_of(
                to_batch(self._definition.batch_format, self._table.slice(start, end - start))
            )
            with self._operator.guard.calling(Hook.COSTS):
                return self._checked(costs, end - start)
        except BatchmillError:
            raise
        except Exception as error:
            raise operator_failed(
                self._definition.name,
                "could not compute the costs of its rows",
                Failure.of(error),
                hint="costs(batch) must return a number for every row, also if infer() returns a RowError for it.",
            ) from error

    def _one_by_one(self, cost: Any, start: int, end: int) -> Any:
        rows = rows_of(self._table.slice(start, end - start))
        found: list[Any] = []
        for row in rows:
            try:
                found.append(cost(row))
            except BatchmillError:
                raise
            except BaseException:  # noqa: BLE001  # infer() will say what is wrong with that row
                found.append(None)
        highest = max((one for one in found if isinstance(one, int | float)), default=1.0)
        if self._definition.batch_format == "rows":
            self._known.update(zip(range(start, end), rows, strict=True))
        return [highest if one is None else one for one in found]

    def _checked(self, costs: Any, rows: int) -> Floats:
        try:
            checked = np.asarray(costs, dtype=np.float64)
        except (TypeError, ValueError):
            checked = np.empty(0)
        if checked.shape != (rows,) or not np.all(np.isfinite(checked)) or np.any(checked < 0):
            raise InvalidOperator(
                f"operator {self._definition.name!r} returned invalid costs: expected {rows} finite numbers of at "
                f"least 0, got {_shown(costs)}.",
                operator=self._definition.name,
            )
        return np.maximum(checked, MIN_COST)


def _shown(costs: Any) -> str:
    text = repr(costs)
    return text if len(text) <= 80 else text[:80] + "…"
