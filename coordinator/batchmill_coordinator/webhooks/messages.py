"""The messages about what happened to a job: one for each receiver that wants it. Pure."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from batchmill.jobs.frozen import Frozen
from batchmill.jobs.job import JobState
from batchmill.jobs.sink import SEARCH_OPERATOR
from batchmill.jobs.webhooks.delivery import DeliveryState, WebhookDelivery
from batchmill.jobs.webhooks.spec import WebhookEvent

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.jobs.job import JobSpec
    from batchmill.jobs.webhooks.spec import WebhookSpec
    from batchmill.ledger import JobRecord
    from batchmill.ledger.announcements import Announcement
    from batchmill.storage.named_webhooks import NamedWebhooks

MAX_ERROR_CHARS = 1000


class Message(Frozen):
    """A message as it is stored. body: the JSON that is signed and sent."""

    delivery: WebhookDelivery
    body: str


def webhooks_of(spec: JobSpec, tenant: str, named: NamedWebhooks) -> list[WebhookSpec]:
    """Return the webhooks of a job: its own, and those of every job. Searches have none."""
    if spec.last.operator == SEARCH_OPERATOR:
        return []
    found = {(one.name, one.url): one for one in named.of_every_job(tenant)}
    found |= {(one.name, one.url): one for one in spec.webhooks}
    return list(found.values())


def announces(spec: JobSpec, tenant: str, named: NamedWebhooks) -> str | None:
    """Say what the ledger announces of a job, see `submit.lua`; None: nothing."""
    webhooks = webhooks_of(spec, tenant, named)
    if not webhooks:
        return None
    limits = {limit for one in webhooks if (limit := _dead_rows(one, named)) and one.wants(WebhookEvent.DEAD_ROWS)}
    return " ".join(["ends", *map(str, sorted(limits))])


def messages(record: JobRecord, announcement: Announcement, named: NamedWebhooks) -> Iterator[Message]:
    """Yield the messages about an announcement. Their ids depend on nothing else, so that each is made once."""
    body = _body(record, announcement)
    for one in webhooks_of(record.spec, record.tenant, named):
        is_due = announcement.dead_rows is None or announcement.dead_rows == _dead_rows(one, named)
        if is_due and one.wants(announcement.event):
            parts = [record.id, announcement.event, announcement.dead_rows, one.name, one.url]
            delivery = WebhookDelivery(
                id=f"msg_{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}",
                job=record.id,
                type=announcement.event,
                webhook=one.name,
                url=one.url,
                state=DeliveryState.PENDING,
                tries=0,
                created_at=announcement.at_ms / 1000,
                next_at=announcement.at_ms / 1000,
                status=None,
                error=None,
            )
            yield Message(delivery=delivery, body=body)


def _dead_rows(webhook: WebhookSpec, named: NamedWebhooks) -> int | None:
    entry = named.find(webhook.name)
    return webhook.dead_rows or (entry.dead_rows if entry is not None else None)


def _body(record: JobRecord, announcement: Announcement) -> str:
    data: dict[str, Any] = {
        "job": record.id,
        "name": record.spec.name,
        "tenant": record.tenant,
        "operators": [stage.operator for stage in record.spec.computing],
        "state": JobState.RUNNING if announcement.dead_rows is not None else record.state,
        "rows_total": record.counted.rows_total,
        "rows_done": record.counted.rows_done,
        "rows_dead": record.rows_dead,
        "output": record.spec.output.path if record.spec.output is not None else None,
        "error": None,
    }
    if announcement.dead_rows is not None:
        data["dead_rows"] = announcement.dead_rows
    if record.error is not None:
        data["error"] = {"code": record.error.code, "message": record.error.message[:MAX_ERROR_CHARS]}
    at = datetime.fromtimestamp(announcement.at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return json.dumps({"type": announcement.event, "timestamp": at.replace("+00:00", "Z"), "data": data})
