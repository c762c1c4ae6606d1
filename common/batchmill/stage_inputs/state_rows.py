"""The results of a stage as one that keeps state reads them: behind the rows of a shard, a row without values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.columns.lineage import SOURCE_ROW
from batchmill.sources.base import RowsRead

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.jobs.shard import Slice
    from batchmill.stage_results import StageResults


class StateRows:
    """Reads results, adds the last row of a shard; a `RowReader`. Thread-safe; see `batchmill.jobs.stateful.step`."""

    def __init__(self, results: StageResults) -> None:
        self._results = results

    def read(self, slices: tuple[Slice, ...]) -> pa.Table:
        """Read the rows of a shard. Raises as `StageResults.read`."""
        table = self._results.read(slices[:-1])
        if not table.num_columns:
            return pa.table({SOURCE_ROW: pa.nulls(1, pa.int64())})
        last = pa.table([pa.nulls(1, field.type) for field in table.schema], schema=table.schema)
        return pa.concat_tables([table, last])

    def read_with_faults(self, slices: tuple[Slice, ...]) -> RowsRead:
        """Read as `read`: what was committed can be read."""
        return RowsRead(self.read(slices))

    def origins(self, slices: Sequence[Slice], places: Sequence[int]) -> list[str]:
        """See `StageResults.origins`."""
        return self._results.origins(slices, places)
