"""Finds results of a job of several stages that are damaged or missing, and the paths between which they were.

Results of a stage are in the order of paths, so a run of damaged parts had all results behind those of the part before
it and before those of the part behind it: whatever stages run together, gather or make several results of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.columns.lineage import path_at
from batchmill.errors import DamagedData, NotFound
from batchmill.jobs.shard import format_shard_id
from batchmill.stage_results import settled_shards
from batchmill_coordinator.results.outputs import results_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    import pyarrow as pa

    from batchmill.columns.lineage import Path
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.settlement import Settled
    from batchmill.sinks import ResultStore


@dataclass(frozen=True, slots=True)
class DamagedRun:
    """Neighbouring parts of a stage that are damaged. after, before: paths of the results beside them; None: none."""

    stage: int
    parts: tuple[Settled, ...]
    after: Path | None
    before: Path | None

    def has(self, path: Path) -> bool:
        """Whether a result of this path was in it."""
        return (self.after is None or path > self.after) and (self.before is None or path < self.before)

    def source_rows(self, total: int) -> range:
        """Return the rows of the source that its results may be from. total: how many there are."""
        first = 0 if self.after is None else self.after[0]
        return range(first, total if self.before is None else self.before[0] + 1)


class StageParts:
    """The parts of a stage that have results, in order."""

    def __init__(self, ledger: Ledger, record: JobRecord, stage: int, store: ResultStore) -> None:
        self._ledger = ledger
        self._record = record
        self._store = store
        self.stage = stage
        self.parts = [part for shard in settled_shards(ledger, record, stage) for part in shard.parts if part.results]

    def read(self, at: int) -> pa.Table:
        """Read the results of a part. Raises `DamagedData`, `NotFound` or another `StorageError`."""
        (table,) = results_of(self._ledger, self._record, self.stage, self._store, [self.parts[at]])
        return table

    def damaged(self, chosen: Collection[str] | None) -> list[bool]:
        """Return for each part whether it is damaged. chosen: shards to check, and the neighbours of damaged ones."""
        names = [format_shard_id(part.shard_id) for part in self.parts]
        to_check = [at for at, name in enumerate(names) if chosen is None or name in chosen]
        found: dict[int, bool] = {}
        while to_check:
            at = to_check.pop()
            found[at] = self._is_damaged(at)
            if found[at]:
                to_check += [beside for beside in (at - 1, at + 1) if 0 <= beside < len(names) and beside not in found]
        return [found.get(at, False) for at in range(len(names))]

    def runs(self, damaged: Sequence[bool]) -> Iterator[DamagedRun]:
        """Yield the runs of damaged parts."""
        start = 0
        while start < len(damaged):
            end = start
            while end < len(damaged) and damaged[end]:
                end += 1
            if end > start:
                after = self._path(start - 1, last=True) if start else None
                before = self._path(end, last=False) if end < len(damaged) else None
                yield DamagedRun(self.stage, tuple(self.parts[start:end]), after, before)
            start = end + 1

    def _path(self, at: int, *, last: bool) -> Path:
        table = self.read(at)
        return path_at(table, table.num_rows - 1 if last else 0)

    def _is_damaged(self, at: int) -> bool:
        try:
            self.read(at)
        except (DamagedData, NotFound):
            return True
        return False
