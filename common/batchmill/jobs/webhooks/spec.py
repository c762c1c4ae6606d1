"""What a job says about its webhooks."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

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
