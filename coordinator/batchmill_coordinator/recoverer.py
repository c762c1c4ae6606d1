"""The recoverer: finds lost leases and lost messages, and puts their shards back to work."""

from __future__ import annotations

import logging
import random
from typing import TYPE_CHECKING, assert_never

from batchmill.broker import queue_of
from batchmill.errors import NotFound
from batchmill.retry import DeadLetter, GiveUp, Lost, Requeue, Settle, Split, decide
from batchmill.shard import ShardState

if TYPE_CHECKING:
    from batchmill.ledger import Ledger
    from batchmill.shard import ShardRef
    from batchmill_coordinator.publisher import Publisher
    from batchmill_coordinator.undertaker import Undertaker

log = logging.getLogger(__name__)

MESSAGE_GRACE_MS = 2_000
"""How long a published message may be neither in its queue nor claimed before it counts as lost."""


class Recoverer:
    """Takes shards back from attempts that are over, by the same decision as a living worker."""

    name = "recoverer"
    wakes_on: frozenset[str] = frozenset()
    period_s = 0.5

    def __init__(self, ledger: Ledger, publisher: Publisher, undertaker: Undertaker) -> None:
        self._ledger = ledger
        self._publisher = publisher
        self._undertaker = undertaker
        self._chance = random.Random()  # noqa: S311  # jitter, no secret

    def step(self, epoch: int) -> None:
        """Look at leases and messages."""
        now_ms = self._ledger.now_ms()
        for ref in self._ledger.shards.expired(now_ms):
            self._take_back(ref, epoch)
        for pool in {record.spec.pool for record in self._ledger.jobs.live()}:
            self._find_lost_messages(pool, now_ms)

    def _take_back(self, ref: ShardRef, epoch: int) -> None:
        shards = self._ledger.shards
        shard = shards.read(ref)
        if shard is None or shard.token != ref.token or shard.state is not ShardState.RUNNING:
            shards.lose(ref, epoch, delay_s=0)  # a leftover: only its lease is dropped
            return
        record = self._ledger.jobs.read(ref.job_id)
        match decide(shard, Lost(), record.spec.retry, self._chance):
            case Requeue(delay_s):
                word = shards.lose(ref, epoch, delay_s=delay_s)
            case Split():
                word = shards.split(shard, epoch)
            case DeadLetter():
                word = self._undertaker.bury(record, shard, epoch)
            case GiveUp() | Settle():
                raise AssertionError("a lost attempt neither has results nor an error of the operator's")
            case never:
                assert_never(never)
        if word == "ok":
            log.warning("attempt %s was lost: its worker died or did not renew the lease", ref.member())
            self._publisher.tell_lost(ref, shard.worker)

    def _find_lost_messages(self, pool: str, now_ms: int) -> None:
        queued = self._ledger.shards.queued(pool)
        missing = len(queued) - self._ledger.queue_length(queue_of(pool))
        late = [ref for ref, at in queued if now_ms - at > MESSAGE_GRACE_MS]
        for ref in late[: max(missing, 0)]:
            try:
                record = self._ledger.jobs.read(ref.job_id)
            except NotFound:
                continue
            log.warning("the message of attempt %s was lost; it is published again", ref.member())
            self._publisher.publish(record.spec.operator, pool, ref)
