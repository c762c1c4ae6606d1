"""The recoverer: finds lost leases and lost messages, and puts their shards back to work."""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from typing import TYPE_CHECKING, assert_never

from batchmill.broker import attempt_of, model_queue_of, queue_of, room_queue_of
from batchmill.errors import NotFound
from batchmill.job_log import LogEvent, LogLevel
from batchmill.retry import DeadLetter, GiveUp, Lost, Requeue, Settle, Split, decide
from batchmill.shard import ShardState
from batchmill.telemetry.log_context import about_attempt
from batchmill_coordinator.fleet.pools import EMPTY, PoolView
from batchmill_coordinator.scheduling.model_demand import ModelNames

if TYPE_CHECKING:
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.shard import Shard, ShardRef
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.metering.counts import RoleMeter
    from batchmill_coordinator.roles.lost_rows import Undertaker
    from batchmill_coordinator.scheduling.publisher import Publisher

log = logging.getLogger(__name__)

MESSAGE_GRACE_MS = 2_000
"""How long a published message may be neither in its queue nor claimed before it counts as lost."""


class Recoverer:
    """Takes shards back from attempts that are over, by the same decision as a living worker."""

    name = "recoverer"
    wakes_on: frozenset[str] = frozenset()
    period_s = 0.5

    def __init__(
        self,
        ledger: Ledger,
        fleet: FleetView,
        publisher: Publisher,
        undertaker: Undertaker,
        lease_ttl_s: float,
        meter: RoleMeter,
    ) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._names = ModelNames(fleet)
        self._queues: dict[str, set[str]] = {}  # by pool: those of models that may hold messages
        self._epoch = 0
        self._publisher = publisher
        self._undertaker = undertaker
        self._meter = meter
        self._lease_ttl_s = lease_ttl_s
        self._chance = random.Random()  # noqa: S311  # jitter, no secret

    def step(self, epoch: int) -> None:
        """Look at leases and messages."""
        spared = self._ledger.leases.reprieve(epoch, self._lease_ttl_s)
        if spared:
            log.warning("nobody could look at the leases for a while: %d of them begin anew", spared)
        now_ms = self._ledger.now_ms()
        for ref in self._ledger.shards.expired(now_ms):
            with about_attempt(ref):
                self._take_back(ref, epoch)
        if epoch != self._epoch:
            self._find_queues()
            self._epoch = epoch
        by_pool: dict[str, list[JobRecord]] = defaultdict(list)
        for record in self._ledger.jobs.live():
            by_pool[record.spec.pool].append(record)
        if not (by_pool or self._queues):
            return
        views = self._fleet.pools()
        for pool in by_pool.keys() | self._queues.keys():
            self._empty_abandoned_queues(pool, by_pool[pool], views.get(pool, EMPTY), epoch)
            if by_pool[pool]:
                self._find_lost_messages(pool, now_ms)

    def _take_back(self, ref: ShardRef, epoch: int) -> None:
        shards = self._ledger.shards
        shard = shards.read(ref)
        if shard is None or shard.token != ref.token or shard.state is not ShardState.RUNNING:
            shards.lose(ref, epoch, delay_s=0)  # a leftover: only its lease is dropped
            return
        record = self._ledger.jobs.read(ref.job_id)
        decision = decide(shard, Lost(), record.spec.retry, self._chance)
        match decision:
            case Requeue(delay_s):
                word, event, then = shards.lose(ref, epoch, delay_s=delay_s), LogEvent.LOST, "another attempt follows"
            case Split():
                word, event, then = shards.split(shard, epoch), LogEvent.SPLIT, "its two halves take over"
            case DeadLetter():
                word, event = self._undertaker.bury(record, shard, epoch), LogEvent.DEAD
                then = "its only row is given up on"
            case GiveUp() | Settle():
                raise AssertionError("a lost attempt neither has results nor an error of the operator's")
            case never:
                assert_never(never)
        if word == "ok":
            self._tell(ref, shard, event, f"its worker died or did not renew the lease; {then}")
            self._meter.lost(record.spec, decision)

    def _tell(self, ref: ShardRef, shard: Shard, event: LogEvent, message: str) -> None:
        log.warning("attempt %s was lost: %s", ref.member(), message)
        self._ledger.log.note(ref.job_id, LogLevel.WARNING, event, message, ref=ref, worker=shard.worker)
        self._publisher.tell_lost(ref, shard.worker)

    def _find_queues(self) -> None:
        """What the leader before may have left."""
        for queue in self._ledger.find_queues(queue_of("")):
            pool, slash, _ = queue.removeprefix(queue_of("")).partition("/")
            if slash:
                self._queues.setdefault(pool, set()).add(queue)

    def _empty_abandoned_queues(self, pool: str, records: list[JobRecord], view: PoolView, epoch: int) -> None:
        """Take back what lies in queues that no worker consumes any more, so that it is dispatched anew.

        A queue is watched from when its model has a job until it has none and nobody consumes from it.
        """
        consumed = {model_queue_of(pool, model) for model in view.models}
        if view.has_room:
            consumed.add(room_queue_of(pool))
        wanted = {model_queue_of(pool, model) for model in self._names.of(records).values()}
        wanted.add(room_queue_of(pool))
        watched = self._queues.get(pool, set()) | wanted
        for queue in watched - consumed:
            refs = [attempt_of(message) for message in self._ledger.take_messages(queue)]
            if refs:
                taken = self._ledger.shards.withdraw(refs, pool, epoch)
                log.info("%d shard(s) are taken back from %s, which no worker consumes any more", taken, queue)
        self._queues[pool] = watched if records else watched & consumed
        if not self._queues[pool]:
            del self._queues[pool]

    def _find_lost_messages(self, pool: str, now_ms: int) -> None:
        queued = self._ledger.shards.queued(pool)
        lengths = self._ledger.queue_lengths([queue_of(pool), *self._queues.get(pool, ())])
        missing = len(queued) - sum(lengths)
        late = [ref for ref, at in queued if now_ms - at > MESSAGE_GRACE_MS]
        for ref in late[: max(missing, 0)]:
            try:
                record = self._ledger.jobs.read(ref.job_id)
            except NotFound:
                continue
            log.warning("the message of attempt %s was lost; it is published again", ref.member())
            told = "its message was lost and is published again"
            self._ledger.log.note(ref.job_id, LogLevel.INFO, LogEvent.REDELIVERED, told, ref=ref)
            self._publisher.publish(record.spec.operator, queue_of(pool), ref)
            self._meter.message_lost(record.spec)
