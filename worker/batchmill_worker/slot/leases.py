"""The leases of one process: renewed in one call by a thread of their own, together with its fleet entry.

While this thread cannot run, because native code holds the interpreter's lock, the supervisor keeps the leases: see
`batchmill_worker.supervisor.lease_keeper`.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, assert_never

from batchmill.errors import ServiceUnavailable
from batchmill.ledger.scripting.calls import RenewAnswer
from batchmill.processes.guarded_thread import GuardedThread
from batchmill_worker.runtime.device_time import DeviceTimeMeter
from batchmill_worker.runtime.slot_board import NEVER, Pulse, SlotBoard

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from batchmill.fleet import BatchChoice, WorkerInfo
    from batchmill.jobs.shard import ShardRef
    from batchmill.ledger import Ledger
    from batchmill.operators.contract import OperatorInfo
    from batchmill_worker.runtime.device_time import AttemptUsage

log = logging.getLogger(__name__)

PULSE_S = 1.0


class Lease:
    """The lease of one attempt, for the thread that runs it.

    usage: the device time of the attempt.
    """

    def __init__(self, draining: threading.Event, usage: AttemptUsage) -> None:
        self.usage = usage
        self._draining = draining
        self._revoked_for: RenewAnswer | None = None

    def revoke(self, reason: RenewAnswer) -> None:
        """Stop the attempt at its next batch."""
        self._revoked_for = reason

    def should_stop(self) -> bool:
        """Whether the attempt has to stop: its lease was revoked, or the process drains."""
        return self._revoked_for is not None or self._draining.is_set()

    @property
    def is_preempted(self) -> bool:
        """Whether the attempt makes room: for a job of higher priority, or because the process drains."""
        if self._revoked_for is None:
            return self._draining.is_set()
        return self._revoked_for is RenewAnswer.PREEMPTED

    @property
    def is_last(self) -> bool:
        """Whether no other attempt will follow, because the job is being stopped."""
        return self._revoked_for is RenewAnswer.STOPPED


class Heartbeat:
    """Renews the leases of the process every third of their length, and announces the worker to the fleet.

    The fleet entry expires after the length of a lease, so that a process that freezes or dies disappears by itself.
    Operators are announced every time, so that a ledger that has lost them gets them back.

    meter: of the device time of the attempts that hold a lease. board: where this thread leaves its marks.
    """

    def __init__(
        self,
        ledger: Ledger,
        worker: WorkerInfo,
        operators: Sequence[OperatorInfo],
        ttl_s: float,
        meter: DeviceTimeMeter | None = None,
        board: SlotBoard | None = None,
    ) -> None:
        self._ledger = ledger
        self._worker = worker
        self._operators = operators
        self._ttl_s = ttl_s
        self._meter = meter or DeviceTimeMeter()
        self.board = board or SlotBoard()
        self._held: dict[ShardRef, Lease] = {}
        self._lock = threading.Lock()
        self._draining = threading.Event()
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._models_changed = False
        self.batches: Callable[[], list[BatchChoice]] = list  # the batch sizes to announce
        self.leaves_at: Callable[[], float | None] = lambda: None  # when the machine ends
        self.on_beat: list[Callable[[], None]] = []  # what else is shared now and then; none of them raises
        self._thread = GuardedThread("heartbeat", self._run)

    @property
    def ttl_ms(self) -> int:
        """How long a lease lasts, milliseconds."""
        return int(self._ttl_s * 1000)

    def start(self) -> None:
        """Announce the worker with its operators, and begin to renew. Raises `ServiceUnavailable`."""
        self._announce()
        self._thread.start()

    def drain(self) -> None:
        """Stop every attempt at its next batch, and have the dispatcher send no more shards for loaded models."""
        self._draining.set()
        self.show_models([], [], has_room=False, load_s=0.0)

    def show_models(self, models: Sequence[str], loading: Sequence[str], *, has_room: bool, load_s: float) -> None:
        """Announce the models that the worker takes shards for, soon and from the heartbeat's own thread.

        A worker that drains announces none.
        """
        if self._draining.is_set():
            models, loading, has_room = [], [], False
        shown = {"models": list(models), "loading": list(loading), "has_room": has_room, "load_s": load_s}
        with self._lock:
            if all(getattr(self._worker, name) == value for name, value in shown.items()):
                return
            self._worker = self._worker.model_copy(update=shown)
            self._models_changed = True
        self._wake.set()

    def stop(self) -> None:
        """Stop renewing, and remove the worker from the fleet."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        try:
            self._ledger.fleet.deregister(self._worker.name)
        except ServiceUnavailable as error:
            log.warning("the worker could not be removed from the fleet; its entry expires by itself: %s", error)

    @property
    def attempts_at_work(self) -> int:
        """The number of attempts that share the time of the process now."""
        return len(self._meter.working)

    @contextmanager
    def holding(self, ref: ShardRef) -> Iterator[Lease]:
        """Renew the lease of an attempt that was just claimed, and meter its time, while the context lasts."""
        lease = Lease(self._draining, self._meter.open())
        with self._lock:
            self._held[ref] = lease
        try:
            yield lease
        finally:
            with self._lock:
                del self._held[ref]
            lease.usage.close()

    def beat(self) -> None:
        """Renew all leases once, and announce the worker. Raises `ServiceUnavailable`."""
        with self._lock:
            held = dict(self._held)
        answers = self._ledger.shards.renew(list(held), self.ttl_ms, [lease.usage.used_us for lease in held.values()])
        for (ref, lease), answer in zip(held.items(), answers, strict=True):
            match answer:
                case RenewAnswer.OK:
                    pass
                case RenewAnswer.LOST | RenewAnswer.PAUSED | RenewAnswer.STOPPED | RenewAnswer.PREEMPTED:
                    lease.revoke(answer)
                    if ref in self._held:  # else it was committed meanwhile, and has no lease any more
                        log.info("attempt %s has to stop: its lease is %s", ref.attempt_key, answer)
                case never:
                    assert_never(never)
        self._announce()
        for share in self.on_beat:
            share()

    def _announce(self) -> None:
        with self._lock:
            running, worker = [ref.attempt_key for ref in self._held], self._worker
            changed, self._models_changed = self._models_changed, False
        worker = worker.model_copy(
            update={
                "running": running,
                "batches": self.batches(),
                "seen_at": self._ledger.now_ms() / 1000,
                "leaves_at": self.leaves_at(),
            }
        )
        self._ledger.fleet.announce(worker, self._operators, self._ttl_s, changed=changed)

    def _run(self) -> None:
        due = time.monotonic() + self._ttl_s / 3
        while True:
            self.board.mark(Pulse.HEARTBEAT)
            was_woken = self._wake.wait(min(max(due - time.monotonic(), 0), PULSE_S))
            self._wake.clear()
            if self._stopping.is_set():
                self.board.mark(Pulse.HEARTBEAT, NEVER)
                return
            is_due = time.monotonic() >= due
            if not (is_due or was_woken):
                continue
            if is_due:
                due = time.monotonic() + self._ttl_s / 3
            try:
                self.beat() if is_due else self._announce()
            except ServiceUnavailable as error:
                log.warning("leases could not be renewed: %s", error)
            except Exception:  # one fault must not end the renewals of all that is held
                log.exception("leases could not be renewed")
