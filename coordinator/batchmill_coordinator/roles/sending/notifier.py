"""The notifier: makes messages of what jobs announce, and sends them to the receivers of their webhooks.

1. An announcement was written in the step in which the job ended. It becomes one message for each receiver, and goes.
2. A message that is due is sent in a thread of its own; a receiver that is slow has few of them, so it delays no other
   receiver, and no other role. While it is sent it is due again after `SENDING_MS`, if this coordinator should die.
   Tenants that have messages share the threads. One that has its share is looked at again later, message by message, so
   that in each step the messages of others are among those that are due.
3. A message that was taken, or given up, is kept for a while, to be seen and sent again, and then forgotten.

Each message is sent at least once; the receiver knows a repetition by its id.
"""

from __future__ import annotations

import logging
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import TYPE_CHECKING

from batchmill.errors import BatchmillError, NotFound, ServiceUnavailable
from batchmill.jobs.job_log import LogEvent, LogLevel
from batchmill.jobs.webhooks.delivery import DeliveryState
from batchmill_coordinator.roles.job_guard import apart
from batchmill_coordinator.webhooks.deliveries import read_message
from batchmill_coordinator.webhooks.messages import messages

if TYPE_CHECKING:
    from batchmill.ledger import Ledger
    from batchmill.ledger.announcements import Announcement
    from batchmill.ledger.documents import Document
    from batchmill.storage.named_webhooks import NamedWebhooks
    from batchmill_coordinator.metering.counts import RoleMetrics
    from batchmill_coordinator.roles.clock_guard import ClockGuard
    from batchmill_coordinator.webhooks.deliveries import Deliveries
    from batchmill_coordinator.webhooks.messages import Message

log = logging.getLogger(__name__)

Receiver = tuple[str, str | None]
"""An entry of the settings, and the address that a job gives."""

MAX_ANNOUNCEMENTS = 100  # in a step
MAX_DUE = 200  # at once
MAX_LOOKS = 20  # in a step, as long as more are due
THREADS = 16
MAX_PER_RECEIVER = 4
MAX_OF_TENANT = 8  # at once: jobs may name any number of receivers, all of them slow
SENDING_MS = 30_000  # more than a try takes
BUSY_MS = 2_000  # until a message is looked at again whose receiver or tenant has as many as it may
BUSY_STEP_MS = 10  # between two such messages of a tenant
KEPT_MS = 60_000  # the same for one that cannot be read, or is to be forgotten while clocks are not trusted


class Notifier:
    """Sends webhooks, as the leader."""

    name = "notifier"
    wakes_on = frozenset({"finished", "ended", "delivery"})
    period_s = 0.5

    def __init__(
        self,
        ledger: Ledger,
        named: NamedWebhooks,
        deliveries: Deliveries,
        clocks: ClockGuard,
        metrics: RoleMetrics,
    ) -> None:
        self._ledger = ledger
        self._named = named
        self._deliveries = deliveries
        self._clocks = clocks
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="webhook")
        self._lock = Lock()
        self._sending: dict[str, tuple[str, Receiver]] = {}  # by message: its tenant and receiver
        self._busy_until: dict[str, int] = {}  # by tenant: when the last of its messages that wait is due, ms
        self._waiting = 0  # announcements, the oldest, that wait for room and are left out of the next step

    def step(self, epoch: int) -> None:
        """Make the messages that are announced, and begin to send those that are due."""
        self._make_messages()
        now_ms = self._ledger.now_ms()
        self._busy_until = {tenant: at for tenant, at in self._busy_until.items() if at > now_ms}
        for _ in range(MAX_LOOKS):
            due = self._ledger.deliveries.due(now_ms, MAX_DUE)
            begun, busy = self._choose(due)
            self._ledger.deliveries.defer([document.id for document in begun], now_ms + SENDING_MS)
            self._ledger.deliveries.defer_each(self._later(busy, now_ms))
            for document in begun:
                self._threads.submit(self._send, document, read_message(document), epoch)
            if len(due) < MAX_DUE:
                return

    def close(self) -> None:
        """Send nothing more. What is being sent ends by itself, and is sent again by the next leader."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _make_messages(self) -> None:
        """Make those of some announcements. Those that have to wait keep no newer ones from their turn."""
        found = self._ledger.announcements.waiting(MAX_ANNOUNCEMENTS, self._waiting)
        for announcement in found:
            self._waiting += 1
            with apart(f"the webhooks of job {announcement.job_id}"):
                self._expand(announcement)
                self._waiting -= 1
        if len(found) < MAX_ANNOUNCEMENTS:
            self._waiting = 0

    def _expand(self, announcement: Announcement) -> None:
        try:
            record = self._ledger.jobs.read(announcement.job_id)
        except NotFound:
            log.warning("job %s was deleted before its webhooks were sent", announcement.job_id)
        else:
            for message in messages(record, announcement, self._named):
                self._deliveries.add(message, record.tenant)
        self._ledger.announcements.settle(announcement)

    def _later(self, busy: list[Document], now_ms: int) -> dict[str, int]:
        """Return when messages are looked at again, by id: those of a tenant one after the other."""
        later = {}
        for document in busy:
            before = self._busy_until.get(document.tenant, 0)
            later[document.id] = max(now_ms + BUSY_MS, before + BUSY_STEP_MS)
            self._busy_until[document.tenant] = later[document.id]
        return later

    def _share(self, pending: list[tuple[Document, Receiver]]) -> int:
        """Return how many threads a tenant may have: as many as each other one that sends or waits."""
        tenants = {tenant for tenant, _ in self._sending.values()} | self._busy_until.keys()
        tenants.update(document.tenant for document, _ in pending)
        return max(min(MAX_OF_TENANT, THREADS // max(len(tenants), 1)), 1)

    def _choose(self, due: list[Document]) -> tuple[list[Document], list[Document]]:
        """Return the messages to send now, and those whose receiver or tenant is busy; forget those that were kept."""
        begun: list[Document] = []
        busy: list[Document] = []
        pending = self._pending(due)
        with self._lock:
            count = Counter(receiver for _, receiver in self._sending.values())
            of_tenant = Counter(tenant for tenant, _ in self._sending.values())
            share = self._share(pending)
            for document, receiver in pending:
                if (
                    document.id in self._sending
                    or len(self._sending) >= THREADS
                    or count[receiver] >= MAX_PER_RECEIVER
                    or of_tenant[document.tenant] >= share
                ):
                    busy.append(document)
                else:
                    count[receiver] += 1
                    of_tenant[document.tenant] += 1
                    self._sending[document.id] = document.tenant, receiver
                    begun.append(document)
        return begun, busy

    def _pending(self, due: list[Document]) -> list[tuple[Document, Receiver]]:
        """Return the messages that are to be sent; forget those that were kept. What fails is looked at again later."""
        pending: list[tuple[Document, Receiver]] = []
        failed = {document.id for document in due}
        for document in due:
            with apart(f"the message {document.id}"):
                delivery = read_message(document).delivery
                if delivery.state is DeliveryState.PENDING:
                    pending.append((document, (delivery.webhook, delivery.url)))
                else:
                    self._forget(document)
                failed.remove(document.id)
        self._ledger.deliveries.defer(sorted(failed), self._ledger.now_ms() + KEPT_MS)
        return pending

    def _forget(self, document: Document) -> None:
        if self._clocks.is_trusted():
            self._ledger.deliveries.remove(document.id, document.tenant)
        else:  # it would be among the first that are due in each step, and with enough of them no other would be
            self._ledger.deliveries.defer([document.id], self._ledger.now_ms() + KEPT_MS)

    def _send(self, document: Document, message: Message, epoch: int) -> None:
        try:
            answer = self._deliveries.try_to_send(message)
            delivery = self._deliveries.settle(document, answer, epoch)
            if delivery is not None:
                self._metrics.webhook_tried(delivery.state)
                if delivery.state is DeliveryState.GIVEN_UP:
                    why = f"webhook {delivery.webhook!r}: {delivery.type} was not delivered: {answer.error}"
                    self._ledger.log.note(delivery.job, LogLevel.WARNING, LogEvent.WEBHOOK, why)
        except ServiceUnavailable as error:
            log.warning("what became of the message %s is not stored, so it is sent again: %s", document.id, error)
        except BatchmillError as error:
            log.error("message %s: %s", document.id, error)
        except Exception:  # one fault must not lose a thread; the message is due again
            log.exception("message %s failed, which is tried again", document.id)
        finally:
            with self._lock:
                self._sending.pop(document.id, None)
