"""One attempt of a shard, from the message to the commit: `AttemptRunner.run` is the story, in numbered steps.

Each step is done by a collaborator of its own: `Claimer`, `ShardLoader`, `ShardComputer`, `AttemptStore` and
`AttemptSettler`. Several attempts run at once, each in a thread of the caller's: while one uses the device, another
loads its rows and a third stores its results.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from batchmill.errors import (
    BatchmillError,
    InvalidOutput,
    InvalidParams,
    InvalidRows,
    InvalidSource,
    NotFound,
    ServiceUnavailable,
    StaleToken,
    StorageUnavailable,
    UnknownOperator,
)
from batchmill.jobs.job import JobError
from batchmill.jobs.retry import Done, Failed, Partial, Revoked
from batchmill.telemetry.log_context import about_attempt
from batchmill_worker.runtime.attempt_result import AttemptResult, AttemptStatus
from batchmill_worker.runtime.failures import Failure
from batchmill_worker.runtime.hooks import calls_for
from batchmill_worker.slot.attempt.reports import dead_rows, failed_rows
from batchmill_worker.slot.attempt.shard_progress import AttemptContext

if TYPE_CHECKING:
    from batchmill.clock import Clock
    from batchmill.jobs.retry import Outcome
    from batchmill.jobs.shard import ShardRef
    from batchmill.operators.contract import OperatorDefinition
    from batchmill_worker.engine.shard_result import ShardResult
    from batchmill_worker.metering.attempts import AttemptMetrics
    from batchmill_worker.slot.attempt.attempt_settler import AttemptSettler
    from batchmill_worker.slot.attempt.attempt_store import AttemptStore
    from batchmill_worker.slot.attempt.claimer import Claimer
    from batchmill_worker.slot.attempt.reports import AttemptReports
    from batchmill_worker.slot.attempt.shard_computer import ShardComputer
    from batchmill_worker.slot.attempt.shard_loader import LoadedShard, ShardLoader
    from batchmill_worker.slot.attempt.shard_progress import ShardProgress
    from batchmill_worker.slot.attempt.store_guard import StoreGuard

log = logging.getLogger(__name__)

HOPELESS = (InvalidSource, InvalidRows, InvalidParams, InvalidOutput, NotFound, UnknownOperator)
"""Errors that another attempt would meet again."""


class AttemptRunner:
    """Runs attempts, several at once in threads of the caller's."""

    def __init__(
        self,
        guard: StoreGuard,
        claimer: Claimer,
        loader: ShardLoader,
        computer: ShardComputer,
        store: AttemptStore,
        settler: AttemptSettler,
        reports: AttemptReports,
        clock: Clock,
    ) -> None:
        self._guard = guard
        self._claimer = claimer
        self._loader = loader
        self._computer = computer
        self._store = store
        self._settler = settler
        self._reports = reports
        self._clock = clock

    def run(self, ref: ShardRef, definition: OperatorDefinition | None = None) -> AttemptResult:
        """Run one attempt to its end. definition: of the operator that its message names.

        Raises `ServiceUnavailable` when the ledger cannot be reached."""
        with about_attempt(ref), calls_for(ref.attempt_key), self._reports.counting(ref) as counted:
            try:
                if not self._guard.allows_claims():
                    return AttemptResult(AttemptStatus.DROPPED, "the worker's blob store is not the ledger's")
                return self._run(ref, definition, counted)
            except StaleToken as stale:
                log.info("%s", stale)
                return AttemptResult(AttemptStatus.DROPPED, str(stale))

    def _run(self, ref: ShardRef, definition: OperatorDefinition | None, counted: AttemptMetrics) -> AttemptResult:
        # 1. Claim the shard. From here on its lease protects it: the broker has forgotten the message, and if this
        #    process dies, the recoverer finds the lease expired. A message for an attempt that is over raises
        #    StaleToken; one for a job that takes no more work is dropped here.
        with self._claimer.claim(ref, definition) as claimed:
            if claimed is None:
                log.info("attempt %s is dropped: its job takes no more work", ref.attempt_key)
                return AttemptResult(AttemptStatus.DROPPED, "its job takes no more work")
            if claimed.spec is not None:
                counted.about(claimed.spec)
            try:
                # 2. Load the rows that earlier attempts have not settled.
                started_at = self._clock.monotonic()
                loaded = self._loader.load(claimed.claim)
                counted.about(loaded.spec)
                loaded_at = self._clock.monotonic()

                # 3. Compute them. The device is shared with the attempts that run beside this one; the lease says when
                #    to stop early, because it was revoked or the worker is being stopped.
                result = self._computer.compute(loaded, claimed, partial(self._save_early, loaded))
                computed_at = self._clock.monotonic()
                self._reports.rows_failed(counted, result)

                # 4. Add what was done to what earlier attempts did, so that no row runs again without need.
                progress = self._add(loaded, result)
                if result.stopped and not progress.is_begun:
                    outcome: Outcome = Revoked()
                elif (result.stopped or progress.failed) and not claimed.lease.is_last:
                    # 5a. Rows are left, because they failed and may be tried again, or because it was time to stop:
                    #     save what is done for the next attempt.
                    failures = 0 if result.stopped else progress.worst
                    checkpoint = self._store.checkpoint(loaded, progress)
                    outcome = Partial(checkpoint, failures, failed_rows(progress, result) if failures else None)
                else:
                    # 5b. All rows are settled, or no attempt will follow: store the results under this attempt's own
                    #     names. The time that counts as work leaves out waiting for the device.
                    completion = self._store.store(loaded, progress)
                    work_s = loaded_at - started_at + result.busy_s + self._clock.monotonic() - computed_at
                    outcome = Done(replace(completion, busy_s=work_s), dead_rows(progress))
            except ServiceUnavailable as error:  # the ledger could not be read: no fault of the shard
                log.warning("attempt %s ends early: %s", ref.attempt_key, error)
                outcome = Revoked()
            except BaseException as error:  # noqa: BLE001  # whatever it is, the shard must not be left behind
                outcome = _failed(error, ref)

            # 6. Settle: commit, requeue, or fail the job. Only now are the results the shard's, and its job is charged
            #    for the time. If another attempt has taken over, StaleToken says so, and what was stored is deleted.
            settled = self._settler.settle(claimed.claim, outcome, claimed.usage)
            self._reports.ended(ref, counted, outcome, settled)
            return settled

    def _add(self, loaded: LoadedShard, result: ShardResult) -> ShardProgress:
        """Add what an attempt has done to what earlier attempts did."""
        spec, worker = loaded.spec, self._reports.worker
        context = AttemptContext(loaded.shard.stage, spec.operator, worker, self._clock.wall(), spec.retry)
        return loaded.before.add(loaded.pending, result, context)

    def _save_early(self, loaded: LoadedShard, result: ShardResult) -> None:
        self._store.save_early(loaded, self._add(loaded, result))


def _failed(error: BaseException, ref: ShardRef) -> Failed:
    """Make the outcome of an attempt that raised."""
    if isinstance(error, BatchmillError):
        error_type = str(error.details.get("error_type", type(error).__name__))
        reported = JobError(code=error.code, message=str(error), details=error.details)
        is_storage = isinstance(error, StorageUnavailable)
        return Failed(reported, error_type, final=isinstance(error, HOPELESS), is_storage=is_storage)
    log.error("attempt %s failed", ref.attempt_key, exc_info=error)
    failure = Failure.of(error)
    message = f"{failure.error_type}: {failure.message}"
    reported = JobError(code="attempt_failed", message=message, details={"traceback": failure.traceback})
    return Failed(reported, failure.error_type)
