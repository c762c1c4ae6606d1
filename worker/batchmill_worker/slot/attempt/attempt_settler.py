"""The last step of an attempt: `retry.decide` decides what follows from its outcome, and the ledger records it."""

from __future__ import annotations

import logging
import random
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from batchmill.errors import StaleToken
from batchmill.jobs.completion import DeadLimit
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
    from batchmill.ledger import Claim
    from batchmill.ledger.shards import ShardLedger
    from batchmill_worker.runtime.device_time import AttemptUsage
    from batchmill_worker.runtime.trace import Recorder
    from batchmill_worker.slot.attempt.attempt_store import AttemptStore
    from batchmill_worker.slot.job_cache import JobFilesCache

log = logging.getLogger(__name__)


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

    def settle(self, claim: Claim, outcome: Outcome, usage: AttemptUsage) -> AttemptResult:
        """Commit, requeue, or fail the job, as `retry.decide` says.

        Raises `StaleToken` if the shard went to another attempt meanwhile; what this one stored is then deleted. Raises
        `ServiceUnavailable` if the ledger cannot be reached; the lease then ends by itself.
        """
        stage = self._job_files.stage_of(claim)
        policy = stage.retry if stage else RetryPolicy()
        decision = decide(claim.shard, outcome, policy, self._rng, self._storage_wait_s)
        try:
            return replace(self._apply(decision, claim, outcome, usage), traceback=_traceback(outcome))
        except StaleToken:
            self._store.delete(claim.shard, self._job_files.get(claim.shard.job_id, claim.shard.stage))
            raise

    def _apply(self, decision: Decision, claim: Claim, outcome: Outcome, usage: AttemptUsage) -> AttemptResult:
        ref = claim.shard.ref
        match decision:
            case Settle(completion):
                self._commit(claim, completion, usage.close())
                return AttemptResult.of_commit(completion)
            case Requeue(delay_s, blame, checkpoint):
                log.warning("shard %s is requeued in %.1f s: %s", ref.attempt_key, delay_s, _reason(outcome))
                used = usage.close() if checkpoint else usage.close().as_wasted()
                self._shards.end_attempt(
                    ref,
                    delay_s=delay_s,
                    blame=blame,
                    checkpoint=checkpoint,
                    stalled_by=_storage_fault(outcome),
                    used=used,
                )
                return AttemptResult(AttemptStatus.REQUEUED, _reason(outcome))
            case GiveUp(error):
                log.error("job %s fails on shard %s: %s", ref.job_id, ref.attempt_key, error.message)
                self._shards.end_attempt(ref, delay_s=0.0, blame=True, stop_with=error, used=usage.close().as_wasted())
                return AttemptResult(AttemptStatus.FAILED, error.message)
            case Split() | DeadLetter():
                raise AssertionError(
                    "only the recoverer splits a shard or makes a dead letter of it, for lost attempts"
                )
            case never:
                assert_never(never)

    def _commit(self, claim: Claim, completion: Completion, used: Parts) -> None:
        shard, files = claim.shard, self._job_files.of(claim)
        limit = DeadLimit.of(files.spec.stages[shard.stage])
        with self._trace.span(Phase.COMMIT, shard=shard.ref.attempt_key):
            if self._shards.commit(shard.ref, completion, limit, used):
                return
        # The ledger bounds the inline results of a job, and this one has reached the bound.
        self._shards.commit(shard.ref, self._store.move_out(shard, files, completion), limit, used)


def _traceback(outcome: Outcome) -> str:
    match outcome:
        case Done(error=error) | Partial(error=error) | Failed(error=error):
            return str(error.details.get("traceback", "")) if error is not None else ""
        case Lost() | Revoked():
            return ""
        case never:
            assert_never(never)


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
