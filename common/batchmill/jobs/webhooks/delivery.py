"""A message of a webhook, and what became of it."""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel

from batchmill.jobs.webhooks.spec import WebhookEvent


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
