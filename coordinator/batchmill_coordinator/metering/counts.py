"""What a coordinator's roles and routes do, counted in this process: it outlives the jobs that it is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.jobs.dead_letters import WORKER_LOST
from batchmill.jobs.job import JobState
from batchmill.jobs.retry import DeadLetter, GiveUp, Requeue, Split
from batchmill.jobs.webhooks.delivery import DeliveryState
from batchmill.telemetry.metrics import DEAD_LETTERS, MAX_STAGE_NAMES, RETRIES, ROWS_SETTLED, BoundedNames
from batchmill_coordinator.metering import catalogue

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from batchmill.jobs.job import StageSpec

MAX_POOLS = 100
"""Up to this many pools have labels of their own: a job may name any."""

_FINAL = [state for state in JobState if state.is_final]


class RoleMetrics:
    """Counters of what roles and routes do. Thread-safe."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.unreadable = 0  # live jobs whose record cannot be read, as the watcher found in its last round
        self._pool = BoundedNames(MAX_POOLS)
        self._stage = BoundedNames(MAX_STAGE_NAMES)
        self._submitted = catalogue.SUBMITTED.counter(registry)
        self._finished = catalogue.FINISHED.counter(registry)
        self._dispatched = catalogue.DISPATCHED.counter(registry)
        self._lost = catalogue.LEASES_LOST.counter(registry)
        self._messages_redelivered = catalogue.MESSAGES_REDELIVERED.counter(registry)
        self._splits = catalogue.SPLITS.counter(registry)
        self._speculated = catalogue.SPECULATED.counter(registry)
        self._preempted = catalogue.PREEMPTED.counter(registry)
        self._retries = RETRIES.counter(registry)
        self._rows = ROWS_SETTLED.counter(registry)
        self._dead_letters = DEAD_LETTERS.counter(registry)
        self._webhook_tries = catalogue.WEBHOOK_TRIES.counter(registry)
        for outcome in DeliveryState:
            self._webhook_tries.labels(outcome)

    def submitted(self, spec: StageSpec) -> None:
        """Count a job that was accepted."""
        work = spec.operator, self._pool(spec.pool)
        self._submitted.labels(*work).inc()
        for state in _FINAL:
            self._finished.labels(*work, state)

    def finished(self, operator: str, pool: str, state: JobState) -> None:
        """Count a job that ended in this state."""
        self._finished.labels(operator, self._pool(pool), state).inc()

    def dispatched(self, spec: StageSpec) -> None:
        """Count an attempt that was published."""
        self._dispatched.labels(*self._work(spec)).inc()
        for metric in (self._lost, self._splits, self._speculated, self._preempted, self._messages_redelivered):
            metric.labels(*self._work(spec))

    def message_redelivered(self, spec: StageSpec) -> None:
        """Count a message that was not claimed in time and is published again."""
        self._messages_redelivered.labels(*self._work(spec)).inc()

    def speculated(self, spec: StageSpec) -> None:
        """Count a shard that is run a second time, which is an attempt that another one follows."""
        self._speculated.labels(*self._work(spec)).inc()
        self._retries.labels(*self._work(spec), "straggler").inc()

    def preempted(self, spec: StageSpec) -> None:
        """Count an attempt that was asked to make room. That another one follows is counted by its worker."""
        self._preempted.labels(*self._work(spec)).inc()

    def webhook_tried(self, outcome: DeliveryState) -> None:
        """Count a message that was sent, or could not be."""
        self._webhook_tries.labels(outcome).inc()

    def lost(self, spec: StageSpec, decision: Requeue | Split | DeadLetter | GiveUp) -> None:
        """Count an attempt that was lost, and what follows."""
        work = self._work(spec)
        self._lost.labels(*work).inc()
        match decision:
            case Requeue():
                self._retries.labels(*work, "lost").inc()
            case Split():
                self._splits.labels(*work).inc()
            case DeadLetter():
                self._rows.labels(*work, "dead").inc()
                self._dead_letters.labels(*work, WORKER_LOST).inc()
            case GiveUp():
                return

    def _work(self, spec: StageSpec) -> tuple[str, str, str]:
        return spec.operator, self._stage(spec.title), self._pool(spec.pool)
