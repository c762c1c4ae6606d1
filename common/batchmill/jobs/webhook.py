"""Webhooks: the messages that the service sends when something happened to a job."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, Field

from batchmill.jobs.frozen import Frozen
from batchmill.jobs.sink import NAME_PATTERN

MAX_WEBHOOKS = 8
"""The most webhooks of a job."""

MAX_URL_CHARS = 2048


class WebhookEvent(StrEnum):
    """What a message is about: its `type`."""

    COMPLETED = "job.completed"
    FAILED = "job.failed"
    CANCELLED = "job.cancelled"
    EXPIRED = "job.expired"
    DEAD_ROWS = "job.dead_rows"
    """As many rows have failed as `dead_rows` says; once, while the job runs."""


class WebhookSpec(Frozen):
    """A receiver of messages about a job."""

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    """An entry of `BATCHMILL_WEBHOOKS`, which has the secret."""
    url: Annotated[str, Field(max_length=MAX_URL_CHARS)] | None = None
    """Where messages go, if the entry does not say so."""
    events: Annotated[list[WebhookEvent], Field(max_length=len(WebhookEvent))] | None = None
    """None: every one."""
    dead_rows: int | None = Field(default=None, ge=1, le=2**53)
    """How many failed rows there are when `job.dead_rows` is sent. None: as the entry says; without that, never."""

    def wants(self, event: WebhookEvent) -> bool:
        """Whether messages about this event are sent to it."""
        return self.events is None or event in self.events


class DeliveryState(StrEnum):
    """What became of a message."""

    PENDING = "pending"
    """It is sent, or sent again at `next_at`."""
    DELIVERED = "delivered"
    """The receiver answered with 2xx."""
    GIVEN_UP = "given_up"
    """It was not taken within three days, or the receiver answered 410."""


class WebhookDelivery(BaseModel):
    """A message and what became of it. Times are in seconds since the epoch."""

    id: str
    """The `webhook-id` header: the same at each try."""
    job: str
    type: WebhookEvent
    webhook: str
    """The entry of `BATCHMILL_WEBHOOKS`."""
    url: str | None
    """Of the job's own webhook. None: that of the entry."""
    state: DeliveryState
    tries: int
    created_at: float
    next_at: float | None
    """When it is sent again."""
    status: int | None
    """Of the last answer."""
    error: str | None
    """Why the last try failed."""
