"""One attempt of a shard, from the message to the commit: `AttemptRunner.run` is the story, in numbered steps.

Each step is done by a collaborator of its own: `Claimer`, `StageRunner` (with `ShardLoader`, `ShardComputer` and
`AttemptStore`) and `AttemptSettler`. Several attempts run at once, each in a thread of the caller's: while one uses the
device, another loads its rows and a third stores its results.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from typing import TYPE_CHECKING

from batchmill.errors import StaleToken
from batchmill.telemetry.log_context import about_attempt
from batchmill_worker.runtime.attempt_result import AttemptResult, AttemptStatus
from batchmill_worker.runtime.hooks import calls_for

if TYPE_CHECKING:
    from batchmill.jobs.shard import ShardRef
    from batchmill.operators.contract import OperatorDefinition
    from batchmill_worker.metering.attempts import AttemptMetrics
    from batchmill_worker.slot.attempt.attempt_settler import AttemptSettler
    from batchmill_worker.slot.attempt.claimer import Claimer
    from batchmill_worker.slot.attempt.reports import AttemptReports
    from batchmill_worker.slot.attempt.stage_runner import StageRunner
    from batchmill_worker.slot.attempt.store_guard import StoreGuard

log = logging.getLogger(__name__)


class AttemptRunner:
    """Runs attempts, several at once in threads of the caller's."""

    def __init__(
        self,
        guard: StoreGuard,
        claimer: Claimer,
        stages: StageRunner,
        settler: AttemptSettler,
        reports: AttemptReports,
    ) -> None:
        self._guard = guard
        self._claimer = claimer
        self._stages = stages
        self._settler = settler
        self._reports = reports

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
            with ExitStack() as counting:
                # 2. Load the rows that earlier attempts have not settled, and compute them. With all of them settled,
                #    continue in the stages that run with this one. Store what was made under this attempt's own names.
                end = self._stages.run(claimed, counted, counting)

                # 3. Settle: commit, requeue, or fail the job. Only now are the results the shard's, and its job is
                #    charged for the time. If another attempt has taken over, StaleToken says so, and what was stored is
                #    deleted.
                settled = self._settler.settle(claimed.claim, end, claimed.usage)
                self._reports.ended(ref, counted, end.outcome, settled.own)
                for following, result in settled.others:
                    self._reports.ended(following.ref, following.counted, following.end.outcome, result)
                return settled.own
