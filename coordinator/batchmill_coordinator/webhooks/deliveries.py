"""The messages of all tenants: sent by the leader, listed and sent again for users."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from batchmill.backoff import Backoff
from batchmill.errors import InvalidSettings, NotFound
from batchmill.jobs.webhooks.delivery import DeliveryState, WebhookDelivery
from batchmill.ledger.documents import UNLIMITED, Quota
from batchmill_coordinator.webhooks.messages import Message
from batchmill_coordinator.webhooks.sender import Answer, send
from batchmill_coordinator.webhooks.signature import signed_headers

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.ledger import Ledger
    from batchmill.ledger.documents import Document
    from batchmill.storage.named_webhooks import NamedWebhooks

MAX_PER_TENANT = 100_000
"""Messages that are kept; further ones wait in the outbox until some are forgotten."""

RETRY = Backoff(base_s=5.0, max_s=6 * 3600.0)
GIVE_UP_S = 72 * 3600.0
MAX_RETRY_AFTER_S = 3600.0
GONE = 410
DELIVERED_TTL_S = 3600.0
GIVEN_UP_TTL_S = 7 * 24 * 3600.0


class Deliveries:
    """Keeps messages, sends them, and decides what follows."""

    def __init__(self, ledger: Ledger, named: NamedWebhooks) -> None:
        self._ledger = ledger
        self._named = named
        self._quota = Quota(MAX_PER_TENANT, UNLIMITED)
        self._rng = random.Random()  # noqa: S311  # jitter, no secret

    def add(self, message: Message, tenant: str) -> None:
        """Keep a message to be sent; one that is there stays as it is. Raises `Overloaded`."""
        due_ms = int(message.delivery.created_at * 1000)
        body = message.model_dump_json()
        self._ledger.deliveries.add(message.delivery.id, tenant, body, due_ms=due_ms, quota=self._quota)

    def page(self, tenant: str, limit: int, after: str | None) -> tuple[list[WebhookDelivery], str | None]:
        """Return a tenant's messages, the newest first, and where the next page begins. Raises `NotFound`."""
        found, has_more = self._ledger.deliveries.page(tenant, limit, after)
        return [read_message(one).delivery for one in found], found[-1].id if has_more else None

    def send_again(self, delivery_id: str, may_see: Callable[[str], bool]) -> WebhookDelivery:
        """Have a message sent now, under its id, whatever became of it. Raises `NotFound`."""
        while True:
            document = self._ledger.deliveries.find(delivery_id)
            if document is None or not may_see(document.tenant):
                raise NotFound(f"there is no message {delivery_id[:128]!r}.", hint="See `batchmill webhooks`.")
            now_ms = self._ledger.now_ms()
            message = _changed(
                read_message(document), state=DeliveryState.PENDING, created_at=now_ms / 1000, next_at=now_ms / 1000
            )
            if self._ledger.deliveries.change(document, message.model_dump_json(), due_ms=now_ms):
                return message.delivery

    def try_to_send(self, message: Message) -> Answer:
        """Send a message once."""
        delivery = message.delivery
        entry = self._named.find(delivery.webhook)
        url = delivery.url or (entry.url if entry is not None else None)
        if entry is None or url is None:
            return Answer(None, f"the service has no webhook {delivery.webhook!r} any more")
        body = message.body.encode()
        try:
            headers = signed_headers(delivery.id, int(time.time()), body, entry.keys())
        except InvalidSettings as error:
            return Answer(None, error.message)
        return send(url, body, headers, private_network=entry.private_network)

    def settle(self, document: Document, answer: Answer, epoch: int) -> WebhookDelivery | None:
        """Store what became of a try; None: the message was changed meanwhile, or another coordinator leads."""
        now_s = self._ledger.now_ms() / 1000
        message = after_try(read_message(document), answer, now_s, self._rng)
        due_s = message.delivery.next_at or now_s + (DELIVERED_TTL_S if answer.is_taken else GIVEN_UP_TTL_S)
        stored = self._ledger.deliveries.change(
            document, message.model_dump_json(), due_ms=round(due_s * 1000), epoch=epoch
        )
        return message.delivery if stored else None


def after_try(message: Message, answer: Answer, now_s: float, rng: random.Random) -> Message:
    """Return a message as it is after a try: delivered, to be sent again, or given up."""
    tries = message.delivery.tries + 1
    shown = {"tries": tries, "status": answer.status, "error": answer.error or None}
    if answer.is_taken:
        return _changed(message, **shown, state=DeliveryState.DELIVERED, next_at=None)
    next_at = now_s + max(RETRY.ceiling_s(tries) / 2 + RETRY.delay_s(tries, rng) / 2, _asked_s(answer))
    if answer.status == GONE or next_at > message.delivery.created_at + GIVE_UP_S:
        return _changed(message, **shown, state=DeliveryState.GIVEN_UP, next_at=None)
    return _changed(message, **shown, next_at=next_at)


def read_message(document: Document) -> Message:
    """Read a message as it is stored."""
    return Message.model_validate_json(document.body)


def _asked_s(answer: Answer) -> float:
    return min(answer.retry_after_s or 0.0, MAX_RETRY_AFTER_S)


def _changed(message: Message, **changes: object) -> Message:
    return message.model_copy(update={"delivery": message.delivery.model_copy(update=changes)})
