"""The last step of an attempt: `retry.decide` decides what follows from its outcome, and the ledger records it."""

from __future__ import annotations

import logging
import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, assert_never

from batchmill.errors import StaleToken
from batchmill.jobs.completion import DeadLimit, PassedStage, TriedStage
from batchmill.jobs.job import RetryPolicy
from batchmill.jobs.retry import (
    DeadLetter,
    Done,
    Failed,
    GiveUp,
    Lost,
    Partial,
    Requeue,
    Revoked,
    Settle,
    Split,
    decide,
)
from batchmill_worker.runtime.attempt_result import AttemptResult, AttemptStatus
from batchmill_worker.runtime.trace import Phase

if TYPE_CHECKING:
    from batchmill.jobs.completion import Completion
    from batchmill.jobs.cost import Parts
    from batchmill.jobs.retry import Decision, Outcome
    from batchmill.jobs.shard import Shard
    from batchmill.ledger import Claim
    from batchmill.ledger.shards import ShardLedger
    from batchmill_worker.runtime.device_time import AttemptUsage
    from batchmill_worker.runtime.trace import Recorder
    from batchmill_worker.slot.attempt.attempt_store import AttemptStore
    from batchmill_worker.slot.attempt.stage_runner import AttemptEnd, NextStage
    from batchmill_worker.slot.job_cache import JobFilesCache

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SettledAttempt:
    """The results of an attempt: in its own stage, and in those that run with it."""

    own: AttemptResult
    others: tuple[tuple[NextStage, AttemptResult], ...] = ()


class AttemptSettler:
    """Ends attempts in the ledger, each with the time it used. Thread-safe."""

    def __init__(
        self,
        shards: ShardLedger,
        job_files: JobFilesCache,
        store: AttemptStore,
        trace: Recorder,
        storage_wait_s: float,
    ) -> None:
        self._shards = shards
        self._job_files = job_files
        self._store = store
        self._trace = trace
        self._storage_wait_s = storage_wait_s
        self._rng = random.Random()  # noqa: S311  # jitter, no secret

    def settle(self, claim: Claim, end: AttemptEnd, usage: AttemptUsage) -> SettledAttempt:
        """Commit, requeue, or fail the job, as `retry.decide` says.

        Raises `StaleToken` if the shard went to another attempt meanwhile; what this one stored is then deleted. Raises
        `ServiceUnavailable` if the ledger cannot be reached; the lease then ends by itself.
        """
        stage = self._job_files.stage_of(claim)
        policy = stage.retry if stage else RetryPolicy()
        decision = decide(claim.shard, end.outcome, policy, self._rng, self._storage_wait_s)
        try:
            settled = self._apply(decision, claim, end, usage)
        except StaleToken:
            for shard in (_stored_as(claim, end), *(one.shard for one in end.passed)):
                self._store.delete(shard, self._job_files.get(shard.job_id, shard.stage), claim.shard.ref)
            raise
        return replace(settled, own=replace(settled.own, traceback=_traceback(end.outcome)))

    def _apply(self, decision: Decision, claim: Claim, end: AttemptEnd, usage: AttemptUsage) -> SettledAttempt:
        ref, outcome = claim.shard.ref, end.outcome
        match decision:
            case Settle(completion):
                others = self._commit(claim, completion, end, usage.close())
                return SettledAttempt(AttemptResult.of_commit(completion), others)
            case Requeue(delay_s, blame, checkpoint, pause_for):
                log.warning("shard %s is requeued in %.1f s: %s", ref.attempt_key, delay_s, _reason(outcome))
                used = usage.close() if checkpoint else usage.close().as_wasted(by_preemption=_is_preempted(outcome))
                self._shards.end_attempt(
                    ref,
                    delay_s=delay_s,
                    blame=blame,
                    checkpoint=checkpoint,
                    pause_for=pause_for,
                    stalled_by=_storage_fault(outcome),
                    used=used,
                )
                return SettledAttempt(AttemptResult(AttemptStatus.REQUEUED, _reason(outcome)))
            case GiveUp(error):
                log.error("job %s fails on shard %s: %s", ref.job_id, ref.attempt_key, error.message)
                self._shards.end_attempt(ref, delay_s=0.0, blame=True, stop_with=error, used=usage.close().as_wasted())
                return SettledAttempt(AttemptResult(AttemptStatus.FAILED, error.message))
            case Split() | DeadLetter():
                raise AssertionError(
                    "only the recoverer splits a shard or makes a dead letter of it, for lost attempts"
                )
            case never:
                assert_never(never)

    def _commit(
        self, claim: Claim, completion: Completion, end: AttemptEnd, used: Parts
    ) -> tuple[tuple[NextStage, AttemptResult], ...]:
        """Commit; return how it ended in the stages that run with the attempt's own."""
        shard, files = claim.shard, self._job_files.of(claim)
        limit = DeadLimit.of(files.spec.stages[shard.stage])
        with self._trace.span(Phase.COMMIT, shard=shard.ref.attempt_key):
            passed = [_passed(one) for one in end.passed]
            tried = self._tried(end.tried) if end.tried else None
            own = used
            for part in (*(one.used for one in end.passed), *([end.tried.used] if end.tried else ())):
                own -= part
            if self._shards.commit(shard.ref, completion, limit, own, passed, tried):
                results = [
                    (one, AttemptResult.of_commit(made.completion))
                    for one, made in zip(end.passed, passed, strict=True)
                ]
                if end.tried is not None and tried is not None:
                    status = AttemptStatus.FAILED if tried.stop_with else AttemptStatus.REQUEUED
                    results.append((end.tried, AttemptResult(status, _reason(end.tried.end.outcome))))
                return tuple(results)
        # The ledger bounds the inline results of a job, and this one has reached the bound; or a later stage is bound
        # to another version of its operator. Then only what was made in this stage counts.
        if end.own.results is None:
            raise AssertionError("an attempt that is done has results")
        for one in end.passed:
            self._store.delete(one.shard, self._job_files.get(shard.job_id, one.shard.stage), one.shard.ref)
        moved = self._store.move_out(_stored_as(claim, end), files, completion, end.own.results, shard.ref)
        self._shards.commit(shard.ref, moved, limit, used)
        return ()

    def _tried(self, one: NextStage) -> TriedStage:
        """Decide what follows where a later stage was not settled."""
        outcome = one.end.outcome
        decision = decide(one.shard, outcome, one.spec.retry, self._rng, self._storage_wait_s)
        match decision:
            case Requeue(delay_s, blame, checkpoint, pause_for):
                log.warning("shard %s is tried again in %.1f s: %s", one.ref.attempt_key, delay_s, _reason(outcome))
                used = one.used if checkpoint else one.used.as_wasted(by_preemption=_is_preempted(outcome))
                stalled_by = _storage_fault(outcome)
                return TriedStage(
                    delay_s, int(blame), checkpoint, stalled_by=stalled_by, used=used, pause_for=pause_for
                )
            case GiveUp(error):
                log.error("job %s fails on shard %s: %s", one.shard.job_id, one.ref.attempt_key, error.message)
                return TriedStage(0.0, 1, stop_with=error, used=one.used.as_wasted())
            case Settle() | Split() | DeadLetter():
                raise AssertionError(f"a stage that was not settled cannot be followed by {decision}")
            case never:
                assert_never(never)


def _stored_as(claim: Claim, end: AttemptEnd) -> Shard:
    """Return the shard under whose name results are stored: the attempt's own, or a part of it."""
    return end.own.loaded.shard if end.own.loaded is not None else claim.shard


def _passed(one: NextStage) -> PassedStage:
    loaded, outcome = one.end.loaded, one.end.outcome
    if loaded is None or not isinstance(outcome, Done):
        raise AssertionError("a stage that was passed is done")
    definition = loaded.definition
    return PassedStage(outcome.completion, DeadLimit.of(one.spec), one.used, definition.version, definition.revision)


def _traceback(outcome: Outcome) -> str:
    match outcome:
        case Done(error=error) | Partial(error=error) | Failed(error=error):
            return str(error.details.get("traceback", "")) if error is not None else ""
        case Lost() | Revoked():
            return ""
        case never:
            assert_never(never)


def _is_preempted(outcome: Outcome) -> bool:
    return isinstance(outcome, Revoked) and outcome.is_preempted


def _storage_fault(outcome: Outcome) -> str:
    return outcome.error.message if isinstance(outcome, Failed) and outcome.is_storage else ""


def _reason(outcome: Outcome) -> str:
    match outcome:
        case Failed(error):
            return error.message
        case Partial(failures=failures):
            return (
                "some rows failed and are tried again" if failures else "the worker releases it; what is done is saved"
            )
        case Revoked():
            return "its lease was revoked, the worker is being stopped, or the ledger could not be read"
        case Done() | Lost():
            return "it has ended"
        case never:
            assert_never(never)
