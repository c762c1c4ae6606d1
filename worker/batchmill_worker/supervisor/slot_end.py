"""What follows the end of a slot's process for the attempts that it held.

1. The attempts to blame are those whose hooks were being called; or, where the watch has ended the process for one
   call, that one. The others are requeued at once. One that was blamed before runs alone the next time, so that an
   innocent one is blamed once at most.
2. A death while an operator was set up is no row's fault: the attempt ends with an error, as if `setup` had raised, and
   after the job's tries the job fails with the reason. Its shard is not split.
3. Other lost attempts are left to the recoverer, which requeues, splits or gives up.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from typing import TYPE_CHECKING

from batchmill.errors import NotFound, StaleToken
from batchmill.jobs.cost import Parts
from batchmill.jobs.job import JobError
from batchmill.jobs.job_log import LogEvent, LogLevel
from batchmill.jobs.retry import Failed, GiveUp, Requeue, decide
from batchmill.jobs.shard import ShardRef
from batchmill.processes.children import describe_exit
from batchmill_worker.runtime.slot_board import Hook

if TYPE_CHECKING:
    from batchmill.ledger import Ledger
    from batchmill.processes.children import ChildEnd
    from batchmill_worker.runtime.slot_board import BoardState, HookCall
    from batchmill_worker.supervisor.slot_watch import Verdict

log = logging.getLogger(__name__)

LOST = "WorkerLost"
"""The type of the error of an attempt whose process has ended, as in dead letters."""


class SlotEnd:
    """Settles what the processes of one machine held when they ended."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._rng = random.Random()  # noqa: S311  # jitter, no secret
        self._setup_deaths: Counter[tuple[str, int]] = Counter()  # by job and stage

    def settle(self, end: ChildEnd, board: BoardState | None, verdict: Verdict | None) -> bool:
        """End the leases of a dead process now, so that its shards need not wait. Return whether its work killed it.

        board: its last state; None if it had none. verdict: why the watch has ended it.

        Raises `ServiceUnavailable`; the leases then end by themselves.
        """
        calls = {call.attempt: call for call in board.calls} if board else {}
        if verdict is not None and verdict.call is not None:
            calls = {verdict.call.attempt: verdict.call}
        blamed: set[str] | None = {attempt for attempt in calls if attempt}
        if end.was_recycled:
            calls, blamed = {}, set()
        elif verdict is not None:
            blamed = set(verdict.blamed)
        elif not calls:
            blamed = None
        how = f"was ended: {verdict.reason}" if verdict else describe_exit(end.code)
        for attempt, call in calls.items():
            if attempt and call.hook is Hook.SETUP:
                self._fail(end, ShardRef.from_key(attempt), call, how if verdict else f"{how} in setup")
        held = self._ledger.shards.release_leases_of_worker(end.name, blamed)
        self._ledger.fleet.deregister(end.name)
        if held:
            log.warning("process %d of %s held %d shard(s); they are requeued", end.pid, end.name, len(held))
        for ref in held:
            call_of = calls.get(ref.attempt_key)
            self._log_death(end, ref, how, call_of, is_blamed=blamed is None or ref.attempt_key in blamed)
        return bool(calls)

    def _fail(self, end: ChildEnd, ref: ShardRef, call: HookCall, how: str) -> None:
        """End an attempt whose operator could not be set up, because its process died or hung in it."""
        try:
            stage = self._ledger.jobs.read(ref.job_id).spec.stages[ref.stage]
        except NotFound:
            return
        shard = self._ledger.shards.read(ref)
        if shard is None or shard.token != ref.token:
            return
        self._setup_deaths[ref.job_id, ref.stage] += 1
        message = f"operator {stage.operator!r} could not be set up: process {end.pid} of {end.name} {how}."
        error = JobError(
            code="operator_failed", message=message, details={"operator": stage.operator, "error_type": LOST}
        )
        is_final = self._setup_deaths[ref.job_id, ref.stage] >= stage.retry.max_attempts
        decision = decide(shard, Failed(error, LOST, final=is_final), stage.retry, self._rng)
        used = Parts(load=int((time.monotonic() - call.began_at) * 1e6))
        try:
            if isinstance(decision, GiveUp):
                log.error("job %s fails: %s", ref.job_id, message)
                self._ledger.shards.end_attempt(ref, delay_s=0.0, blame=True, stop_with=error, used=used)
                self._ledger.log.note(ref.job_id, LogLevel.ERROR, LogEvent.FAILED, message, ref=ref, worker=end.name)
            elif isinstance(decision, Requeue):
                self._ledger.shards.end_attempt(ref, delay_s=decision.delay_s, blame=True, used=used)
                again = f"{message} Another attempt follows."
                self._ledger.log.note(ref.job_id, LogLevel.WARNING, LogEvent.REQUEUED, again, ref=ref, worker=end.name)
        except StaleToken as stale:
            log.info("%s", stale)

    def _log_death(self, end: ChildEnd, ref: ShardRef, how: str, call: HookCall | None, *, is_blamed: bool) -> None:
        """Log the death in the job of a shard. is_blamed: the shard may be the cause."""
        where = f"the shard was in {call.hook}" if call else "the shard may be the cause"
        what = where if is_blamed else "the shard is requeued and does not count as lost"
        message = f"worker process {end.pid} {how}; {what}"
        level = LogLevel.ERROR if is_blamed else LogLevel.INFO
        self._ledger.log.note(ref.job_id, level, LogEvent.DIED, message, ref=ref, worker=end.name)
