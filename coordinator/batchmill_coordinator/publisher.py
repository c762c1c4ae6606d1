"""The coordinator's side of Celery: publishes shard messages."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from celery import Celery
from kombu import Queue
from kombu.exceptions import OperationalError

from batchmill.broker import celery_settings, task_arguments, task_name
from batchmill.errors import ServiceUnavailable

if TYPE_CHECKING:
    from batchmill.settings import ServiceSettings
    from batchmill.shard import ShardRef

PUBLISH_RETRIES = {"max_retries": 3, "interval_start": 0.05, "interval_step": 0.2, "interval_max": 1.0}


class Publisher:
    """Publishes one message a shard, over one kept connection. Thread-safe."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._app = Celery("batchmill", set_as_current=False)
        self._app.conf.update(celery_settings(settings))
        self._lock = threading.Lock()
        self._producer = self._app.amqp.Producer(self._app.connection_for_write(), auto_declare=False)

    def publish(self, operator: str, queue: str, ref: ShardRef) -> None:
        """Publish an attempt to a queue of its pool. Raises `ServiceUnavailable` when the broker cannot be reached."""
        with self._lock:
            try:
                self._app.send_task(
                    task_name(operator),
                    args=task_arguments(ref),
                    queue=Queue(queue),
                    declare=[],  # of a declared queue Redis would keep a note for ever
                    producer=self._producer,
                    retry=True,
                    retry_policy=PUBLISH_RETRIES,
                    ignore_result=True,
                )
            except OperationalError as error:
                raise ServiceUnavailable(
                    f"the message of attempt {ref.member()} could not be published ({type(error).__name__}).",
                    hint="It is published again when the broker can be reached.",
                ) from error

    def close(self) -> None:
        """Close the connection."""
        self._app.close()
