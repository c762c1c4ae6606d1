"""The Celery peer's tasks: bare Celery, with the settings that are best for many small tasks."""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import redis
from celery import Celery

URL = "BENCH_CELERY_URL"  # redis+socket:///path?virtual_host=DATABASE
COUNTER = "BENCH_CELERY_COUNTER"  # unix:///path?db=DATABASE
COUNTED = "counted"  # the key that counts the rows of tasks whose results are ignored


def make_app(url: str) -> Celery:
    """An app with the tasks `echo`, which gives its row back, and `count`, which only counts it."""
    app = Celery("peer", broker=url, backend=url)
    app.conf.update(
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        worker_prefetch_multiplier=64,
        worker_send_task_events=False,
        task_track_started=False,
        worker_hijack_root_logger=False,
        broker_connection_retry_on_startup=True,
    )
    app.task(echo, name="echo", ignore_result=False)
    app.task(count, name="count", ignore_result=True)
    return app


def echo(row: dict[str, Any]) -> dict[str, Any]:
    return row


def count(row: dict[str, Any]) -> None:  # noqa: ARG001  # it travels, as it does for `echo`
    _counter().incr(COUNTED)


@cache
def _counter() -> redis.Redis:
    return redis.Redis.from_url(os.environ[COUNTER])
