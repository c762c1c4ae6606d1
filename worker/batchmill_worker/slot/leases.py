"""The leases of one process: renewed in one call, from a thread of their own, with its presence in the fleet."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, assert_never

from batchmill.errors import ServiceUnavailable
from batchmill.ledger.calls import RenewAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from batchmill.job import BatchChoice, WorkerInfo
    from batchmill.ledger import Ledger
    from batchmill.operators.contract import OperatorInfo
    from batchmill.shard import ShardRef
    from batchmill_worker.runtime.cost_meter import Account

log = logging.getLogger(__name__)


class Lease:
    """A claim on one attempt, as the thread that runs it sees it."""

    def __init__(self, draining: threading.Event, account: Account) -> None:
        self._draining = draining
        self._account = account
        self._revoked_for: RenewAnswer | None = None

    def revoke(self, reason: RenewAnswer) -> None:
        """Make the attempt stop at its next batch."""
        self._revoked_for = reason

    def should_stop(self) -> bool:
        """Whether the attempt is to stop: it was revoked, or the process is going."""
        return self._revoked_for is not None or self._draining.is_set()

    @property
    def used_us(self) -> int:
        """The time that the attempt has used so far."""
        return self._account.used_us

    @property
    def is_last(self) -> bool:
        """Whether no other attempt will follow, because the job is stopping."""
        return self._revoked_for is RenewAnswer.STOPPED


class Heartbeat:
    """Renews what the process holds every third of a lease, and says that the worker is there.

    The presence lasts as long as a lease; a process that freezes or dies is forgotten by itself. Operators are
    announced with every beat, so that a ledger that lost them knows them again.
    """

    def __init__(self, ledger: Ledger, worker: WorkerInfo, operators: Sequence[OperatorInfo], ttl_s: float) -> None:
        self._ledger = ledger
        self._worker = worker
        self._operators = operators
        self._ttl_s = ttl_s
        self._held: dict[ShardRef, Lease] = {}
        self._lock = threading.Lock()
        self._draining = threading.Event()
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._models_changed = False
        self.batches: Callable[[], list[BatchChoice]] = list  # what to show of batch sizes
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    @property
    def ttl_ms(self) -> int:
        """How long a lease lasts."""
        return int(self._ttl_s * 1000)

    def start(self) -> None:
        """Say that the worker is there, with its operators, and begin to renew. Raises `ServiceUnavailable`."""
        self._announce()
        self._thread.start()

    def drain(self) -> None:
        """Tell every attempt to stop at its next batch, and the dispatcher to send no more for what is loaded."""
        self._draining.set()
        self.show_models([], [], has_room=False, load_s=0.0)

    def show_models(self, models: Sequence[str], loading: Sequence[str], *, has_room: bool, load_s: float) -> None:
        """Have announced, at once and from the heartbeat's own thread, what the worker takes shards for.

        A worker that drains takes none.
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
        """End, and say that the worker goes."""
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        try:
            self._ledger.fleet.deregister(self._worker.name)
        except ServiceUnavailable as error:
            log.warning("the fleet could not be left; the presence ends by itself: %s", error)

    @contextmanager
    def holding(self, ref: ShardRef, account: Account) -> Iterator[Lease]:
        """Renew the lease of an attempt that was just claimed, and tell what it uses, while the context lasts."""
        lease = Lease(self._draining, account)
        with self._lock:
            self._held[ref] = lease
        try:
            yield lease
        finally:
            with self._lock:
                del self._held[ref]

    def beat(self) -> None:
        """Renew everything once."""
        with self._lock:
            held = dict(self._held)
        answers = self._ledger.shards.renew(list(held), self.ttl_ms, [lease.used_us for lease in held.values()])
        for (ref, lease), answer in zip(held.items(), answers, strict=True):
            match answer:
                case RenewAnswer.OK:
                    pass
                case RenewAnswer.LOST | RenewAnswer.PAUSED | RenewAnswer.STOPPED:
                    log.info("attempt %s is to stop: its lease is %s", ref.attempt_key, answer)
                    lease.revoke(answer)
                case never:
                    assert_never(never)
        self._announce()

    def _announce(self) -> None:
        with self._lock:
            running, worker = [ref.attempt_key for ref in self._held], self._worker
            changed, self._models_changed = self._models_changed, False
        worker = worker.model_copy(
            update={"running": running, "batches": self.batches(), "seen_at": self._ledger.now_ms() / 1000}
        )
        self._ledger.fleet.announce(worker, self._operators, self._ttl_s, changed=changed)

    def _run(self) -> None:
        due = time.monotonic() + self._ttl_s / 3
        while True:
            self._wake.wait(max(due - time.monotonic(), 0))
            self._wake.clear()
            if self._stopping.is_set():
                return
            is_due = time.monotonic() >= due
            if is_due:
                due = time.monotonic() + self._ttl_s / 3
            try:
                self.beat() if is_due else self._announce()
            except ServiceUnavailable as error:
                log.warning("leases could not be renewed: %s", error)
