"""The result of one attempt at a shard's rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from batchmill_worker.batching.packing import Rows
    from batchmill_worker.generation.base import BegunAnswer
    from batchmill_worker.runtime.failures import DeadRow


@dataclass(frozen=True, slots=True)
class BatchTiming:
    """One device call that returned."""

    rows: int
    units: float  # of cost, padding included
    true_units: float  # without padding
    busy_s: float  # on the device, waiting for it not counted


@dataclass(frozen=True, slots=True, eq=False)
class ShardResult:
    """The results of a shard's rows, or of those that were settled before it was stopped. Immutable.

    Rows are named by their index in the shard. Rows of similar cost run together, so the settled rows of a stopped
    shard may be any of them.
    """

    table: pa.Table  # carried input columns and the operator's, in input order, without failed rows
    sources: Rows  # for each row of the table, the row it was made from, ascending
    settled: Rows  # rows done or dead, ascending
    dead: tuple[DeadRow, ...]  # by index
    timings: tuple[BatchTiming, ...]  # in the order in which batches ran
    stopped: bool  # whether rows were left because of `should_stop`, or because the results are too many
    made: tuple[str, ...] = ()  # the columns of the table that the operator made
    cached: Rows | None = None  # settled rows whose results were not computed, ascending; None: there are none
    is_full: bool = False  # whether they were left because the results are too many
    begun: Mapping[int, BegunAnswer] = field(default_factory=dict)  # answers of rows that are not settled

    @property
    def rows_settled(self) -> int:
        """The number of rows that are done or dead."""
        return len(self.settled)

    @property
    def rows_done(self) -> int:
        """The number of rows that are done; with an operator that expands, one may have no result."""
        return len(self.settled) - len(self.dead)

    @property
    def busy_s(self) -> float:
        """Seconds on the device."""
        return sum(timing.busy_s for timing in self.timings)

    @property
    def units(self) -> float:
        """The cost of what ran on the device, padding included."""
        return sum(timing.units for timing in self.timings)

    @property
    def true_units(self) -> float:
        """The cost of what ran on the device, without padding."""
        return sum(timing.true_units for timing in self.timings)
