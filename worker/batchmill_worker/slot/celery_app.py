"""The worker's side of Celery: an app with one thin task an operator, and a consumer that takes only what it runs."""

from __future__ import annotations

import logging
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, assert_never

from celery import Celery
from celery.apps import worker as worker_program
from celery.exceptions import Ignore, Retry, SecurityWarning
from celery.signals import setup_logging, worker_shutting_down
from celery.worker.consumer import Consumer
from kombu.exceptions import OperationalError

from batchmill.broker import RECONNECT, celery_settings, kombu_waits, queue_of, room_queue_of, task_name
from batchmill.shard import ShardRef, parse_shard_id
from batchmill_worker.runtime.attempt_end import Ending, EndingKind
from batchmill_worker.slot.model_queues import ModelQueuesStep

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.operators.contract import OperatorRegistry
    from batchmill.settings import WorkerSettings
    from batchmill_worker.slot.attempt import AttemptRunner
    from batchmill_worker.slot.model_queues import ModelQueues


log = logging.getLogger(__name__)


class PromptConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Celery's consumer, soon back at work when the broker is back."""

    def ensure_connected(self, conn: Any) -> Any:
        """A connection that is open, however long that takes."""
        conn.ensure_connection = partial(conn.ensure_connection, **kombu_waits(RECONNECT))
        return super().ensure_connected(conn)


def create_celery_app(settings: WorkerSettings, registry: OperatorRegistry, runner: AttemptRunner) -> Celery:
    """An app whose tasks run attempts."""
    app = Celery("batchmill", set_as_current=False)
    app.conf.update(
        celery_settings(settings),
        worker_consumer=PromptConsumer,
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_send_task_events=True,
        task_acks_late=False,  # acknowledged when the task starts; from the claim on, the lease protects the shard
        task_default_queue=queue_of(settings.pool),
    )
    for definition in registry:
        app.task(_task(runner), name=task_name(definition.name), bind=True, throws=(AttemptFailed,))
    return app


class AttemptFailed(Exception):
    """How Celery's events say that an attempt brought nothing; what follows is settled in the ledger by then."""


def _task(runner: AttemptRunner) -> Callable[[Any, str, int, str, int], str]:
    def run_shard(task: Any, job_id: str, stage: int, shard: str, token: int) -> str:
        return tell_celery(task, runner.run(ShardRef(job_id, stage, parse_shard_id(shard), token)))

    return run_shard


def tell_celery(task: Any, ending: Ending) -> str:
    """End a task in the state that fits, for those who look on: SUCCESS, RETRY, FAILURE or REVOKED.

    None of it makes Celery do anything: messages are acknowledged by now, and the ledger decides what comes next.
    """
    match ending.kind:
        case EndingKind.SETTLED:
            return ending.why
        case EndingKind.PUT_BACK:
            raise Retry(exc=AttemptFailed(ending.why))
        case EndingKind.FAILED:
            raise AttemptFailed(ending.why)
        case EndingKind.DROPPED:
            try:  # Celery has no exception for it
                task.send_event("task-revoked", retry=False, terminated=False, signum=None, expired=False)
            except OperationalError:
                log.info("no event could be sent: the broker is away")
            raise Ignore(ending.why)
        case never:
            assert_never(never)


def _say_nothing(*_: object) -> None:
    """What Celery's `safe_say` is replaced by."""


def consume(
    app: Celery, settings: WorkerSettings, name: str, queues: ModelQueues, on_shutdown: Callable[[], None]
) -> None:
    """Consume the pool's queues until SIGTERM; `on_shutdown` is called when it comes, before running tasks end."""

    def shutting_down(**_: Any) -> None:
        on_shutdown()

    def keep_our_logging(**_: Any) -> None:
        """Celery leaves logging alone when somebody listens to this signal."""

    worker_program.safe_say = _say_nothing  # it writes past the log; the supervisor logs why its slots end
    warnings.filterwarnings("ignore", category=SecurityWarning)  # of running as root: it is about pickle, we take JSON
    worker_shutting_down.connect(shutting_down, weak=False)
    setup_logging.connect(keep_our_logging, weak=False)
    app.steps["consumer"].add(ModelQueuesStep)
    worker = app.Worker(
        hostname=name,
        pool="threads",
        concurrency=settings.shards_at_once,
        queues=[queue_of(settings.pool), room_queue_of(settings.pool)],
        model_queues=queues,
        without_gossip=True,
        without_mingle=True,
        task_events=True,
        loglevel="WARNING",
        quiet=True,
    )
    worker.start()
