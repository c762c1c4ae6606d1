"""The worker's side of Celery: an app with one thin task per operator, and a consumer that takes only what it runs."""

from __future__ import annotations

import logging
import time
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, assert_never

import redis
from celery import Celery
from celery.apps import worker as worker_program
from celery.exceptions import Ignore, Retry, SecurityWarning
from celery.signals import setup_logging, worker_shutting_down
from celery.worker.consumer import Consumer
from kombu.exceptions import OperationalError

from batchmill.broker import RECONNECT, celery_settings, kombu_waits, queue_of, spare_queue_of, task_name
from batchmill.jobs.shard import ShardRef, parse_shard_id
from batchmill_worker.runtime.attempt_result import AttemptResult, AttemptStatus
from batchmill_worker.slot.model_queues import ModelQueuesStep

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.operators.contract import OperatorDefinition
    from batchmill.operators.registration import OperatorRegistry
    from batchmill.settings import WorkerSettings
    from batchmill_worker.slot.attempt.runner import AttemptRunner
    from batchmill_worker.slot.model_queues import ModelQueues


log = logging.getLogger(__name__)


EVENTS_DELAY_S = 0.1
"""How long events of tasks are collected, to be sent as one message."""


class PromptConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Celery's consumer, with short waits to reconnect, and few messages for many tasks' events."""

    _events_due_at = 0.0  # monotonic: when those that are collected now are sent

    def on_send_event_buffered(self) -> None:
        """An event of a task is to be sent; Celery would send each by itself. Called in any thread."""
        if self.hub:
            self.hub.call_soon(self._send_events_soon)

    def shutdown(self) -> None:
        """End, once what is collected is sent."""
        self._flush_events()
        super().shutdown()

    def _send_events_soon(self) -> None:
        now = time.monotonic()
        if now >= self._events_due_at:  # also where a lost connection took the timer with it
            self._events_due_at = now + EVENTS_DELAY_S
            self.timer.call_after(EVENTS_DELAY_S, self._flush_events)

    def ensure_connected(self, conn: Any) -> Any:
        """Return an open connection, however long that takes."""
        self.controller.options["model_queues"].detach()
        conn.ensure_connection = partial(conn.ensure_connection, **kombu_waits(RECONNECT))
        return super().ensure_connected(conn)

    def on_connection_error_before_connected(self, exc: BaseException) -> None:
        """The broker answers, but not as it should: a replica, for example."""
        log.warning("the broker cannot be used, which is tried again: %s", exc)
        time.sleep(RECONNECT.base_s)

    def on_connection_error_after_connected(self, exc: BaseException) -> None:
        """The connection broke, or an error reply broke it."""
        super().on_connection_error_after_connected(exc)
        time.sleep(RECONNECT.base_s)


def create_celery_app(settings: WorkerSettings, registry: OperatorRegistry, runner: AttemptRunner) -> Celery:
    """Make the app, with a task for each operator that runs attempts."""
    app = Celery("batchmill", set_as_current=False)
    app.conf.update(
        celery_settings(settings),
        worker_consumer=PromptConsumer,
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=True,
        task_acks_late=False,  # nothing is acknowledged: from the claim on, the lease protects the shard
        task_default_queue=queue_of(settings.pool),
    )
    for definition in registry:
        app.task(_task(runner, definition), name=task_name(definition.name), bind=True, throws=(AttemptFailed,))
    return app


class AttemptFailed(Exception):
    """Marks a task as failed or retried in Celery's events. What follows is in the ledger by then."""


def _task(runner: AttemptRunner, definition: OperatorDefinition) -> Callable[[Any, str, int, str, int], str]:
    def run_shard(task: Any, job_id: str, stage: int, shard: str, token: int) -> str:
        return end_task(task, runner.run(ShardRef(job_id, stage, parse_shard_id(shard), token), definition))

    return run_shard


def end_task(task: Any, result: AttemptResult) -> str:
    """End a task in the state that monitors are to show: SUCCESS, RETRY, FAILURE or REVOKED.

    Celery acts on none of them: the message is acknowledged, and the ledger decides what follows.
    """
    match result.status:
        case AttemptStatus.SETTLED:
            return result.reason
        case AttemptStatus.REQUEUED:
            raise _with_traceback(Retry(exc=AttemptFailed(result.reason)), result)
        case AttemptStatus.FAILED:
            raise _with_traceback(AttemptFailed(result.reason), result)
        case AttemptStatus.DROPPED:
            try:  # Celery has no exception for it
                task.send_event("task-revoked", retry=False, terminated=False, signum=None, expired=False)
            except (OperationalError, redis.RedisError):
                log.info("no event could be sent: the broker cannot be reached")
            raise Ignore(result.reason)
        case never:
            assert_never(never)


E = TypeVar("E", bound=Exception)


def _with_traceback(error: E, result: AttemptResult) -> E:
    """Add the traceback of the operator to an exception, whose own traceback has only our frames."""
    if result.traceback:
        error.add_note(f"\nIn the operator:\n{result.traceback}")
    return error


def _print_nothing(*_: object) -> None:
    """Replace Celery's `safe_say`."""


def consume(
    app: Celery, settings: WorkerSettings, name: str, queues: ModelQueues, on_shutdown: Callable[[], None]
) -> None:
    """Consume the pool's queues until SIGTERM, which calls `on_shutdown` before running tasks end."""

    def shutting_down(**_: Any) -> None:
        queues.detach()
        on_shutdown()

    def keep_our_logging(**_: Any) -> None:
        """Receive the signal: Celery does not configure logging when it has a receiver."""

    worker_program.safe_say = _print_nothing  # it bypasses the log; the supervisor logs why its slots end
    warnings.filterwarnings(
        "ignore", category=SecurityWarning
    )  # about running as root, which is unsafe with pickle; we accept JSON only
    worker_shutting_down.connect(shutting_down, weak=False)
    setup_logging.connect(keep_our_logging, weak=False)
    app.steps["consumer"].add(ModelQueuesStep)
    worker = app.Worker(
        hostname=name,
        pool="threads",
        concurrency=settings.shards_at_once,
        queues=[queue_of(settings.pool), spare_queue_of(settings.pool)],
        model_queues=queues,
        without_gossip=True,
        without_mingle=True,
        task_events=True,
        loglevel="WARNING",
        quiet=True,
    )
    worker.start()
