"""An attempt's work in one stage: load, compute, and add what was done; then in the stages that run with it.

A stage that runs with the one before it (`StageSpec.joins`) has the same shards. An attempt that has settled all rows
of its shard has that shard's input for the next stage in memory, and continues there as if it had claimed it. It stops
at the first stage in which it cannot settle every row: then that shard is like any other of its stage, with the
checkpoint and the wait of the attempt that failed there. So rows, paths, dead letters, attempts and counters are those
of stages that run apart, and so is everything that follows a failure.

An attempt of a shard that was lost before is for its own stage alone: the next loss shows which stage is at fault.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from batchmill.errors import (
    BatchmillError,
    InvalidOutput,
    InvalidParams,
    InvalidRows,
    InvalidSource,
    NotFound,
    QuotaUsedUp,
    ServiceUnavailable,
    StorageUnavailable,
    UnknownOperator,
)
from batchmill.jobs.job import JobError
from batchmill.jobs.retry import Done, Failed, Partial, Revoked
from batchmill.jobs.stages import last_stage
from batchmill_worker.runtime.failures import Failure
from batchmill_worker.slot.attempt.partial_results import part_and_rest, with_results_of, without_too_large_rows
from batchmill_worker.slot.attempt.reports import dead_rows, failed_rows
from batchmill_worker.slot.attempt.shard_progress import AttemptContext

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    import pyarrow as pa

    from batchmill.clock import Clock
    from batchmill.jobs.cost import Parts
    from batchmill.jobs.job import StageSpec
    from batchmill.jobs.retry import Outcome
    from batchmill.jobs.shard import Shard, ShardRef
    from batchmill_worker.engine.shard_result import ShardResult
    from batchmill_worker.metering.attempts import AttemptMetrics
    from batchmill_worker.slot.attempt.attempt_store import AttemptStore
    from batchmill_worker.slot.attempt.claimer import ClaimedShard
    from batchmill_worker.slot.attempt.partial_results import PartAndRest
    from batchmill_worker.slot.attempt.reports import AttemptReports
    from batchmill_worker.slot.attempt.shard_computer import ShardComputer
    from batchmill_worker.slot.attempt.shard_loader import LoadedShard, ShardLoader
    from batchmill_worker.slot.attempt.shard_progress import ShardProgress

log = logging.getLogger(__name__)

T = TypeVar("T")

HOPELESS = (InvalidSource, InvalidRows, InvalidParams, InvalidOutput, NotFound, UnknownOperator)
"""Errors that another attempt would meet again."""


@dataclass(frozen=True, slots=True, eq=False)
class StageEnd:
    """How an attempt ended in one stage. loaded, results: where it is done."""

    outcome: Outcome
    loaded: LoadedShard | None = None
    results: pa.Table | None = None
    stopped: bool = False  # whether rows were left because it was time to stop

    @property
    def may_continue(self) -> bool:
        """Whether there is input for the next stage, and time for it."""
        return self.results is not None and self.results.num_rows > 0 and not self.stopped


@dataclass(frozen=True, slots=True, eq=False)
class NextStage:
    """How an attempt ended in a stage that runs with its own."""

    shard: Shard  # with the token of the attempt
    spec: StageSpec
    counted: AttemptMetrics
    end: StageEnd
    used: Parts  # of the attempt's time

    @property
    def ref(self) -> ShardRef:
        """The attempt, as of this stage."""
        return self.shard.ref


@dataclass(frozen=True, slots=True, eq=False)
class AttemptEnd:
    """How an attempt ended: in its own stage, in those that it has passed, and in the one that it could not settle."""

    own: StageEnd
    passed: tuple[NextStage, ...] = ()
    tried: NextStage | None = None

    @property
    def outcome(self) -> Outcome:
        """How it ended in its own stage."""
        return self.own.outcome


class StageRunner:
    """Runs claimed shards. Thread-safe."""

    def __init__(
        self, loader: ShardLoader, computer: ShardComputer, store: AttemptStore, reports: AttemptReports, clock: Clock
    ) -> None:
        self._loader = loader
        self._computer = computer
        self._store = store
        self._reports = reports
        self._clock = clock

    def run(self, claimed: ClaimedShard, counted: AttemptMetrics, counting: ExitStack) -> AttemptEnd:
        """Run a claimed shard through its stage, and through those that run with it; store what was made.

        counted: of its own stage. counting: ends the counting of the stages behind it.
        """
        ref = claimed.claim.shard.ref
        own = self._guarded(ref, lambda: self._stage(lambda: self._loader.load(claimed.claim), claimed, counted))
        passed: list[NextStage] = []
        tried = None
        if claimed.claim.shard.losses == 0:
            last = own
            while (following := self._following(last, claimed, counting)) is not None:
                if not isinstance(following.end.outcome, Done):
                    tried = following
                    break
                passed.append(following)
                last = following.end
        end = AttemptEnd(own, tuple(passed), None if tried and isinstance(tried.end.outcome, Revoked) else tried)
        if not isinstance(own.outcome, Done):
            return end
        stored = self._guarded(ref, lambda: self._stored(end, ref))
        return AttemptEnd(stored) if isinstance(stored, StageEnd) else stored

    def _following(self, last: StageEnd, claimed: ClaimedShard, counting: ExitStack) -> NextStage | None:
        """Run what a stage has made through the next one, if that runs with it."""
        if last.loaded is None or last.results is None or not last.may_continue or claimed.lease.should_stop():
            return None
        loaded, results = last.loaded, last.results
        shard = self._loader.next_shard(loaded, results.num_rows)
        if shard is None:
            return None
        spec = loaded.files.spec.stages[shard.stage]
        counted = counting.enter_context(self._reports.counting(shard.ref))
        counted.about(spec)
        before = claimed.usage.so_far()
        end = self._guarded(
            shard.ref, lambda: self._stage(lambda: self._loader.hand_on(loaded, shard, results), claimed, counted)
        )
        return NextStage(shard, spec, counted, end, claimed.usage.so_far() - before)

    def _stage(self, load: Callable[[], LoadedShard], claimed: ClaimedShard, counted: AttemptMetrics) -> StageEnd:
        # 1. Load the rows that earlier attempts have not settled.
        started_at = self._clock.monotonic()
        loaded = load()
        counted.about(loaded.spec)
        loaded_at = self._clock.monotonic()

        # 2. Compute them. The device is shared with the attempts that run beside this one; the lease says when to stop
        #    early, because it was revoked or the worker is being stopped.
        result = self._computer.compute(loaded, claimed, None if loaded.is_handed else partial(self._save, loaded))
        computed_at = self._clock.monotonic()
        self._reports.rows_failed(counted, result)

        # 3. Add what was done to what earlier attempts did, so that no row runs again without need.
        progress = self._add(loaded, result)
        if result.stopped and not progress.is_begun and not progress.begun:
            return StageEnd(Revoked(claimed.lease.is_preempted))
        is_of_last = loaded.shard.stage == last_stage(loaded.files.spec)  # others have no results that anybody sees
        is_last = claimed.lease.is_last and is_of_last and not loaded.is_handed
        cut = None if is_last else _cut(loaded, progress, result)
        if cut is not None and loaded.is_handed:
            progress = with_results_of(cut, progress)  # its shard in this stage is cut by the next attempt
        is_left = result.stopped or loaded.is_limited or bool(progress.failed) or cut is not None
        if is_left and not is_last and (cut is None or loaded.is_handed):
            # 4a. Rows are left, because they failed and may be tried again, or because it was time to stop: save what
            #     is done for the next attempt.
            failures = 0 if result.stopped and not result.is_full else progress.worst
            checkpoint = self._store.checkpoint(loaded, progress)
            return StageEnd(Partial(checkpoint, failures, failed_rows(progress, result) if failures else None))
        rest = None
        if cut is not None:
            # 4b. There are too many results: only the first rows are committed, and another shard has the others.
            rest = self._store.rest(loaded, cut)
            loaded, progress = replace(loaded, shard=cut.part), cut.settled
        # 4c. All rows are settled, or no attempt will follow. The time that counts as work leaves out waiting for the
        #     device.
        completion, results = self._store.finish(loaded, progress)
        work_s = loaded_at - started_at + result.busy_s + self._clock.monotonic() - computed_at
        outcome = Done(replace(completion, busy_s=work_s, rest=rest), dead_rows(progress, loaded.name_of))
        has_stopped = result.stopped and not result.is_full
        return StageEnd(outcome, loaded, results, stopped=has_stopped or bool(progress.failed))

    def _add(self, loaded: LoadedShard, result: ShardResult) -> ShardProgress:
        """Add what an attempt has done to what earlier attempts did."""
        spec, worker = loaded.spec, self._reports.worker
        context = AttemptContext(loaded.shard.stage, spec.operator, worker, self._clock.wall(), spec.retry)
        progress = loaded.before.add(loaded.pending, result, context)
        if loaded.max_bytes is None:
            return progress
        return without_too_large_rows(progress, context, loaded.max_bytes, loaded.input_rows)

    def _save(self, loaded: LoadedShard, result: ShardResult) -> None:
        self._store.save_early(loaded, self._add(loaded, result))

    def _stored(self, end: AttemptEnd, held: ShardRef) -> AttemptEnd:
        """Store the results of the last stage that is done, under the attempt's own names."""
        last = end.passed[-1].end if end.passed else end.own
        if last.loaded is None or last.results is None or not isinstance(last.outcome, Done):
            return end
        started_at = self._clock.monotonic()
        completion = self._store.store(last.loaded, last.outcome.completion, last.results, held)
        completion = replace(completion, busy_s=completion.busy_s + self._clock.monotonic() - started_at)
        last = replace(last, outcome=Done(completion, last.outcome.error))
        if not end.passed:
            return replace(end, own=last)
        return replace(end, passed=(*end.passed[:-1], replace(end.passed[-1], end=last)))

    def _guarded(self, ref: ShardRef, step: Callable[[], T]) -> T | StageEnd:
        """Do a step of an attempt; what it raises becomes the attempt's end, so that the shard is not left behind."""
        try:
            return step()
        except ServiceUnavailable as error:  # the ledger could not be read: no fault of the shard
            log.warning("attempt %s ends early: %s", ref.attempt_key, error)
            return StageEnd(Revoked())
        except BaseException as error:  # noqa: BLE001  # whatever it is, the shard must not be left behind
            return StageEnd(_failed(error, ref))


def _cut(loaded: LoadedShard, progress: ShardProgress, result: ShardResult) -> PartAndRest | None:
    """Cut a shard that has too many results; None if it has not, or cannot be cut."""
    if loaded.max_bytes is None:
        return None
    is_full = result.is_full or loaded.is_limited or progress.nbytes > loaded.max_bytes
    return part_and_rest(loaded.shard, progress, loaded.max_bytes) if is_full else None


def _failed(error: BaseException, ref: ShardRef) -> Failed:
    """Make the outcome of an attempt that raised."""
    if isinstance(error, BatchmillError):
        error_type = str(error.details.get("error_type", type(error).__name__))
        reported = JobError(code=error.code, message=str(error), details=error.details)
        is_storage = isinstance(error, StorageUnavailable)
        is_blocked = isinstance(error, QuotaUsedUp)
        return Failed(reported, error_type, isinstance(error, HOPELESS), is_storage, is_blocked)
    log.error("attempt %s failed", ref.attempt_key, exc_info=error)
    failure = Failure.of(error)
    message = f"{failure.error_type}: {failure.message}"
    reported = JobError(code="attempt_failed", message=message, details={"traceback": failure.traceback})
    return Failed(reported, failure.error_type)
