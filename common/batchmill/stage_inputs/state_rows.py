"""The results of a stage as one that keeps state reads them: behind the rows of a shard, a row without values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.columns import join_what_fits
from batchmill.columns.lineage import SOURCE_ROW
from batchmill.sources.base import RowsRead, null_rows

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
        return self.read_with_faults(slices).table

    def read_with_faults(self, slices: tuple[Slice, ...]) -> RowsRead:
        """Read as `read`; values are listed that have another type than those of the parts before.

        No row is at fault for that: it depends on the rows of earlier shards, and on the columns that a stage uses.
        """
        table, unfit = join_what_fits(self._results.tables(slices[:-1]))
        if not table.num_columns:
            return RowsRead(pa.table({SOURCE_ROW: pa.nulls(1, pa.int64())}))
        return RowsRead(pa.concat_tables([table, null_rows(table.schema, 1)]), unfit=tuple(unfit))

    def origins(self, slices: Sequence[Slice], places: Sequence[int]) -> list[str]:
        """See `StageResults.origins`."""
        return self._results.origins(slices, places)
