"""The coordinator's side of Celery: publishes shard messages."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import redis
from celery import Celery
from kombu import Queue
from kombu.exceptions import OperationalError

from batchmill.broker import (
    PUBLISH,
    PUBLISH_RETRIES,
    celery_settings,
    describe_arguments,
    kombu_waits,
    task_arguments,
    task_id,
    task_name,
)
from batchmill.errors import ServiceUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.jobs.shard import ShardRef
    from batchmill.settings import ServiceSettings

log = logging.getLogger(__name__)


class MessagePublisher:
    """Publishes one message a shard, over one kept connection. Thread-safe."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._app = Celery("batchmill", set_as_current=False)
        self._app.conf.update(celery_settings(settings))
        self._lock = threading.Lock()
        self._connect()

    def _connect(self) -> None:
        self._connection = self._app.connection_for_write()
        self._producer = self._app.amqp.Producer(self._connection, auto_declare=False)

    def publish(
        self, operator: str, queue: str, ref: ShardRef, job_name: str | None = None, stage_name: str | None = None
    ) -> None:
        """Publish an attempt to a queue of its pool. job_name, stage_name: for those who watch the tasks.

        Raises `ServiceUnavailable` when the broker cannot be reached.
        """
        with self._lock, self._reconnecting():
            try:
                self._app.send_task(
                    task_name(operator),
                    args=task_arguments(ref),
                    task_id=task_id(ref),
                    argsrepr=describe_arguments(ref, job_name, stage_name),
                    retries=ref.token - 1,
                    queue=Queue(queue),
                    declare=[],  # Redis would keep an entry for a declared queue forever
                    producer=self._producer,
                    retry=True,
                    retry_policy={"max_retries": PUBLISH_RETRIES, **kombu_waits(PUBLISH)},
                    ignore_result=True,
                )
            except (OperationalError, redis.RedisError) as error:
                raise ServiceUnavailable(
                    f"the message of attempt {ref.attempt_key} could not be published ({type(error).__name__}).",
                    hint="It is published again when the broker can be reached.",
                ) from error

    @contextmanager
    def _reconnecting(self) -> Iterator[None]:
        """Let the next message have a new connection if this one fails: Kombu may leave a closed channel for good."""
        try:
            yield
        except Exception:
            with suppress(Exception):
                self._connection.release()
            self._connect()
            raise

    def report_lost(
        self, operator: str, ref: ShardRef, worker: str, job_name: str | None, stage_name: str | None = None
    ) -> None:
        """Send Celery's events that an attempt began and has failed, in the place of its worker, which is gone.

        The worker may not have sent what it knew of the attempt. Best effort.
        """
        try:
            with self._app.events.default_dispatcher(hostname=worker) as dispatcher:
                dispatcher.send(
                    "task-received",
                    uuid=task_id(ref),
                    name=task_name(operator),
                    args=describe_arguments(ref, job_name, stage_name),
                    kwargs="{}",
                    retries=ref.token - 1,
                )
                dispatcher.send(
                    "task-failed",
                    uuid=task_id(ref),
                    exception="WorkerLost('the worker died or did not renew its lease')",
                    traceback="",
                    retry=False,
                )
        except (OperationalError, redis.RedisError):
            log.info("no event could be sent: the broker cannot be reached")

    def close(self) -> None:
        """Close the connection to the broker."""
        self._app.close()
