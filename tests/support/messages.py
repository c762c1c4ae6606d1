"""Celery's messages as they lie in the queue of the pool `default`: read, and made out to other attempts."""

from __future__ import annotations

import base64
import json

from batchmill.broker import queue_of
from batchmill.jobs.job import DEFAULT_POOL

QUEUE = f"batchmill:{queue_of(DEFAULT_POOL)}"


def attempt_of(message: str) -> list[str | int]:
    """The attempt that a message is for: job, stage, shard, token."""
    attempt: list[str | int] = json.loads(base64.b64decode(json.loads(message)["body"]))[0]
    return attempt


def readdressed(message: str, attempt: list[str | int]) -> str:
    """The same message for another attempt."""
    envelope = json.loads(message)
    _, keywords, embedded = json.loads(base64.b64decode(envelope["body"]))
    envelope["body"] = base64.b64encode(json.dumps([attempt, keywords, embedded]).encode()).decode()
    return json.dumps(envelope)
