"""The second step of an attempt: the rows that are still to be run."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from threading import Event
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from batchmill.columns.lineage import lineage_of, path_at, without_lineage
from batchmill.errors import DamagedData, NotFound, UnknownOperator
from batchmill.jobs.shard import Shard, Slice, part_of
from batchmill.operators.contract import OperatorKind
from batchmill.sources.base import RowsRead
from batchmill.stage_inputs.gathered_results import null_where_one_is
from batchmill_worker.runtime.trace import Phase
from batchmill_worker.slot.attempt.partial_results import rows_to_run
from batchmill_worker.slot.attempt.shard_progress import ShardProgress, decode_progress
from batchmill_worker.slot.attempt.unusable_rows import unusable_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.clock import Clock
    from batchmill.columns import UnfitValue
    from batchmill.jobs.job import StageSpec
    from batchmill.ledger import Claim
    from batchmill.operators.contract import OperatorDefinition
    from batchmill.operators.registration import OperatorRegistry
    from batchmill.storage.blobs import BlobStore
    from batchmill_worker.batching.packing import Rows
    from batchmill_worker.generation.base import BegunAnswer
    from batchmill_worker.runtime.trace import Recorder
    from batchmill_worker.slot.job_cache import JobFiles, JobFilesCache

log = logging.getLogger(__name__)

_NO_ROWS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedShard:
    """A shard that is ready to be run."""

    shard: Shard
    files: JobFiles
    definition: OperatorDefinition
    before: ShardProgress  # what earlier attempts have done
    pending: Rows  # the rows left, by their index in the job's input
    table: pa.Table  # the same rows
    lineage: pa.Table | None = None  # of all rows of the shard; None: they are rows of the job's source
    handed: pa.Table | None = None  # all of its rows, where this attempt has made them in the stage before
    max_bytes: int | None = None  # of results that are committed at once; None: all are
    is_limited: bool = False  # whether only some of the rows left are pending, see `rows_to_run`
    unfit: tuple[UnfitValue, ...] = ()  # values that the rows lack, as in `RowsRead`: such a shard is never divided
    early: Event = field(default_factory=Event)  # set once the ledger knows this attempt's own checkpoint

    @property
    def pending_lineage(self) -> pa.Table | None:
        """Where the pending rows are from; None: they are rows of the job's source."""
        return None if self.lineage is None else self.lineage.take(self.pending - self.shard.first_row)

    @property
    def max_new_bytes(self) -> int | None:
        """How many bytes of results this attempt may add; those of earlier ones count, unless they wait for a gap."""
        if self.max_bytes is None:
            return None
        left = self.max_bytes - self.before.nbytes
        return left if left > 0 else self.max_bytes

    @property
    def failures(self) -> dict[int, int]:
        """How often pending rows failed before, by their index among them."""
        failed = self.before.failed
        if not failed:
            return {}
        return {place: failed[row].failures for place, row in enumerate(self.pending.tolist()) if row in failed}

    @property
    def begun(self) -> dict[int, BegunAnswer]:
        """The answers that an earlier attempt has begun, by the index of their row among the pending ones."""
        known = self.before.begun
        if not known:
            return {}
        return {place: known[row] for place, row in enumerate(self.pending.tolist()) if row in known}

    @property
    def spec(self) -> StageSpec:
        """The stage's."""
        return self.files.spec.stages[self.shard.stage]

    @property
    def is_handed(self) -> bool:
        """Whether this attempt has made its rows: then they count from 0, for their place in the stage is not known."""
        return self.handed is not None

    def input_rows(self, indices: Sequence[int]) -> pa.Table:
        """Return rows of the shard as they were read, by their index in the stage's input."""
        shard = self.shard
        rows = self.files.source.read(shard.slices) if self.handed is None else self.handed
        return rows.take(pa.array([shard.skip + index - shard.first_row for index in indices], pa.int64()))

    def name_of(self, index: int) -> str:
        """Name a row for a person: by its path, or its index in the job's source."""
        if self.lineage is None:
            return str(index)
        return ".".join(map(str, path_at(self.lineage, index - self.shard.first_row)))


class ShardLoader:
    """Loads shards. Thread-safe. worker: its name, for messages. max_result_bytes: see `partial_results`."""

    def __init__(
        self,
        job_files: JobFilesCache,
        blobs: BlobStore,
        registry: OperatorRegistry,
        worker: str,
        trace: Recorder,
        clock: Clock,
        max_result_bytes: int | None = None,
    ) -> None:
        self._max_result_bytes = max_result_bytes
        self._job_files = job_files
        self._blobs = blobs
        self._registry = registry
        self._worker = worker
        self._trace = trace
        self._clock = clock

    def load(self, claim: Claim) -> LoadedShard:
        """Read the rows of a shard that no earlier attempt has settled. Rows that cannot be used are settled.

        Raises `InvalidRows` for a row without a required value, if the job is to fail then. Raises `UnknownOperator`,
        `NotFound`, `InvalidSource` or `StorageError`, or `ServiceUnavailable` if the ledger is needed and away.
        """
        shard = claim.shard
        with self._trace.span(Phase.LOAD, shard=shard.ref.attempt_key):
            files = self._job_files.of(claim)
            before = self._checkpoint(shard)
            return self._loaded(shard, files, before, files.source.read_with_faults(shard.slices))

    def next_shard(self, loaded: LoadedShard, rows: int) -> Shard | None:
        """Return the shard that has what this one has made, in the stage that runs with its own; None without one."""
        shard, stages = loaded.shard, loaded.files.spec.stages
        number = shard.stage + 1
        definition = None if number == len(stages) else self._registry.get(stages[number].operator)
        if definition is None or not stages[number].joins or definition.kind is OperatorKind.REQUEST:
            return None  # of requests, what ends is saved at once, in a shard of its own
        everything = Slice(0, 0, rows, rows, part=part_of(shard.shard_id, shard.token))
        return Shard(shard.job_id, number, shard.shard_id, 0, rows, (everything,), token=shard.token)

    def hand_on(self, loaded: LoadedShard, following: Shard, results: pa.Table) -> LoadedShard:
        """Load such a shard. results: what it has. Raises as `load`."""
        with self._trace.span(Phase.LOAD, shard=following.ref.attempt_key):
            files = self._job_files.after(following.job_id, loaded.files)
            made = self._loaded(following, files, ShardProgress(), RowsRead(results))
            return replace(made, handed=results)

    def _loaded(self, shard: Shard, files: JobFiles, before: ShardProgress, found: RowsRead) -> LoadedShard:
        stage = files.spec.stages[shard.stage]
        self._trace.name_stage(shard.ref.attempt_key, stage.title)
        definition = self._definition(stage.operator)
        required = definition.required_columns(stage.params)
        lineage = None
        if files.spec.reads_lineage(shard.stage):
            lineage = lineage_of(found.table).slice(shard.skip, shard.rows)
            needed = [*required, *(stage.carry or ())]
            found = replace(found, table=_with_columns(without_lineage(found.table), needed))
        elif files.spec.stream is not None:
            found = replace(found, table=_with_columns(found.table, [*required, *(stage.carry or ())]))
        if stage.gathers:
            found = replace(found, table=null_where_one_is(found.table, required))
        table = found.table.slice(shard.skip, shard.rows)
        loaded = LoadedShard(shard, files, definition, before, _NO_ROWS, table, lineage, unfit=found.unfit)
        unusable = unusable_rows(shard, found, required, stage.on_null, files.source, loaded.name_of)
        before = before.with_unusable(unusable, shard.stage, stage.operator, self._worker, self._clock.wall())
        is_of_all = stage.is_undivided or definition.kind is OperatorKind.SHARD  # its one result is of all rows
        max_bytes = None if is_of_all else self._max_result_bytes
        left = before.pending(shard)
        pending = rows_to_run(shard, before, left, max_bytes)
        if pending.size < shard.rows:
            table = table.take(pending - shard.first_row)
        made = replace(loaded, before=before, pending=pending, table=table)
        return replace(made, max_bytes=max_bytes, is_limited=pending.size < left.size)

    def _checkpoint(self, shard: Shard) -> ShardProgress:
        if not shard.checkpoint:
            return ShardProgress()
        try:
            found = self._blobs.read_table(shard.checkpoint)
            return decode_progress(found, shard.first_row - shard.skip).window(shard)
        except (DamagedData, NotFound) as error:
            log.warning("what is done of shard %s cannot be read, and is done again: %s", shard.ref.attempt_key, error)
            return ShardProgress()

    def _definition(self, operator: str) -> OperatorDefinition:
        definition = self._registry.get(operator)
        if definition is None:
            raise UnknownOperator(f"worker {self._worker} has no operator {operator!r}.")
        return definition


def _with_columns(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Append columns that a part of the results of a stage lacks, as they are where its other results have them."""
    for name in names:
        if name not in table.column_names:
            table = table.append_column(name, pa.nulls(table.num_rows))
    return table
