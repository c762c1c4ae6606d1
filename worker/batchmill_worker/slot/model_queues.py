"""The queues that a worker consumes from besides its pool's: one for each loaded model, and one while it has room.

1. When a model begins to load, its queue is added to the consumer. A BRPOP that is already waiting does not include
   the queue; it ends after at most a second, mostly long before the model is loaded.
2. When the model is loaded and its queue has settled, it is announced, and the dispatcher may send shards to the queue.
3. When the model is evicted, it is removed from the announcement and its queue is cancelled, both at once. A message
   that the waiting BRPOP still receives is requeued by kombu. What is left in a queue without a consumer is requeued by
   the recoverer.

All of this happens in the consumer's own thread, except `follow`. An outage of the broker changes nothing: Celery
consumes from all selected queues again when it is back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import bootsteps
from kombu import Queue

from batchmill.broker import model_queue_of, spare_queue_of
from batchmill.clock import Clock, SystemClock
from batchmill_worker.models.operator_cache import LoadedModels
from batchmill_worker.runtime.slot_board import NEVER, Pulse
from batchmill_worker.slot.leases import PULSE_S

if TYPE_CHECKING:
    from batchmill_worker.slot.leases import Heartbeat

SETTLE_S = 1.5
"""Longer than a BRPOP waits, which is a second."""

NOTHING = LoadedModels((), (), has_room=True, load_s=0.0)


class ModelQueues:
    """Keeps the queues of a consumer, and what is announced, consistent with what the process has loaded."""

    def __init__(self, pool: str, heartbeat: Heartbeat, clock: Clock | None = None) -> None:
        self._pool = pool
        self._heartbeat = heartbeat
        self._clock = clock or SystemClock()
        self._consumer: Any = None  # Celery's
        self._models = NOTHING
        self._since = {spare_queue_of(pool): float("-inf")}  # consumed queues, by when they were added

    def follow(self, models: LoadedModels) -> None:
        """Note that the loaded models have changed. Safe in any thread."""
        self._models = models
        consumer = self._consumer
        if consumer is not None:
            consumer.call_soon(self.sync)

    def attach(self, consumer: Any) -> None:
        """Use this consumer, which has started, or restarted after an outage of the broker."""
        self._consumer = consumer
        self.sync()
        self._later()  # the timers of the previous connection are lost
        board = self._heartbeat.board
        board.mark(Pulse.CONSUMER)
        consumer.timer.call_repeatedly(PULSE_S, board.mark, (Pulse.CONSUMER,))

    def detach(self) -> None:
        """Expect no mark of the consumer until `attach`: it waits for the broker, or for its last tasks."""
        self._heartbeat.board.mark(Pulse.CONSUMER, NEVER)

    def sync(self) -> None:
        """Add and cancel queues as needed, and announce what has settled. Call it in the consumer's thread."""
        if self._consumer.task_consumer is None:  # its connection is lost; `attach` is called when there is a new one
            return
        now, models = self._clock.monotonic(), self._models
        wanted = {model_queue_of(self._pool, model) for model in (*models.ready, *models.loading)}
        if models.has_room:
            wanted.add(spare_queue_of(self._pool))
        self._announce(models, now)
        for queue in wanted:
            self._want(queue, now)
        for queue in self._since.keys() - wanted:
            self._drop(queue)

    def _want(self, queue: str, now: float) -> None:
        if queue in self._since:
            return
        # Not declared: Redis would keep the declaration for ever.
        self._consumer.app.amqp.queues.add(Queue(queue, routing_key=queue, no_declare=True))
        self._consumer.add_task_queue(queue)
        self._since[queue] = now
        self._later()

    def _drop(self, queue: str) -> None:
        self._consumer.cancel_task_queue(queue)
        self._consumer.app.amqp.queues.pop(queue, None)
        del self._since[queue]

    def _announce(self, models: LoadedModels, now: float) -> None:
        def has_settled(queue: str) -> bool:
            return now - self._since.get(queue, now) >= SETTLE_S

        # in an order that does not change with each use: every change is announced, and has the leader read the fleet
        ready = sorted(model for model in models.ready if has_settled(model_queue_of(self._pool, model)))
        loading = sorted(model for model in (*models.ready, *models.loading) if model not in ready)
        has_room = models.has_room and has_settled(spare_queue_of(self._pool))
        self._heartbeat.show_models(ready, loading, has_room=has_room, load_s=models.load_s)

    def _later(self) -> None:
        self._consumer.timer.call_after(SETTLE_S + 0.01, self.sync)


class ModelQueuesStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """Attaches a worker's model queues to its consumer; Celery starts it again after every reconnect."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self._queues: ModelQueues = consumer.controller.options["model_queues"]

    def start(self, consumer: Any) -> None:
        """Attach the model queues: the consumer's own queues are set up."""
        self._queues.attach(consumer)
