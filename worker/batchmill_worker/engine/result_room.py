"""How much room there is for the results of an attempt, counted batch by batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from batchmill.operators.contract import OperatorDefinition
    from batchmill_worker.engine.batches import BatchResult
    from batchmill_worker.engine.executor import ShardTask


class ResultRoom:
    """Counts bytes: of the columns that were made, and for each result those that are carried, on average."""

    def __init__(self, table: pa.Table, task: ShardTask, definition: OperatorDefinition) -> None:
        self._left = task.max_bytes
        self._carried = 0
        if (
            self._left is not None and definition.expands and not definition.gathers
        ):  # else each is carried once at most
            carried = table if task.carry is None else table.select(list(task.carry))
            self._carried = carried.nbytes // max(table.num_rows, 1)

    @property
    def is_full(self) -> bool:
        """Whether there is none left."""
        return self._left is not None and self._left <= 0

    def take(self, result: BatchResult) -> None:
        """Count the results of a batch."""
        if self._left is not None:
            self._left -= sum(column.nbytes for column in result.columns.values()) + result.rows * self._carried
