"""The recoverer: finds lost leases and lost messages, and requeues their shards.

1. After an outage of the ledger all leases are extended once: nobody could renew them.
2. An attempt whose lease has expired ends by the same pure decision as one that fails in its worker (`retry.decide`):
   its shard is requeued, split in half, or, with one row left, settled as dead. A straggler decides nothing: another
   attempt has its shard.
3. Queues that no worker consumes any more are emptied; their shards are dispatched again. A new leader looks for such
   queues once, since it does not know what the one before it has used; it also makes sure of all index entries.
4. A retry that is due later than its policy permits was set before the clock went back, and is due sooner.
5. A shard that has been queued for `MESSAGE_GRACE_MS` while its pool's queues have fewer messages than it has queued
   shards has lost its message, which is published again. A message too many does no harm: only one claim succeeds.
"""

from __future__ import annotations

import logging
import random
from collections import defaultdict
from itertools import chain
from typing import TYPE_CHECKING, assert_never

from batchmill.broker import attempt_of, model_queue_of, queue_of, spare_queue_of
from batchmill.jobs.job import JobState
from batchmill.jobs.job_log import LogEvent, LogLevel
from batchmill.jobs.retry import DeadLetter, GiveUp, Lost, Requeue, Settle, Split, decide
from batchmill.jobs.shard import ShardState
from batchmill.ledger.formats.unreadable import UnreadableJob
from batchmill.ledger.scripting.calls import ExpireAttemptAnswer, SplitAnswer
from batchmill.telemetry.log_context import about_attempt
from batchmill_coordinator.fleet.pools import EMPTY, PoolView
from batchmill_coordinator.roles.job_guard import JobGuard, apart
from batchmill_coordinator.scheduling.model_demand import ModelNames

if TYPE_CHECKING:
    from batchmill.jobs.shard import ShardRef
    from batchmill.ledger import Ledger
    from batchmill.ledger.formats.record import JobStage
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.metering.counts import RoleMetrics
    from batchmill_coordinator.roles.lost_rows import LostRowSettler
    from batchmill_coordinator.scheduling.message_publisher import MessagePublisher

log = logging.getLogger(__name__)

MESSAGE_GRACE_MS = 2_000
"""How long a published message may be neither in its queue nor claimed before it counts as lost."""

MAX_DELAY_S = 60.0
"""Longer than any delay of a retry but the backoff of its stage's policy."""

NOT_RENEWED = "its worker died or did not renew the lease"

MAX_LATE = 16  # stages with late retries that a step looks at


class Recoverer:
    """Ends attempts whose worker is gone, and finds shards whose message is."""

    name = "recoverer"
    wakes_on: frozenset[str] = frozenset()
    period_s = 0.5

    def __init__(
        self,
        ledger: Ledger,
        fleet: FleetView,
        publisher: MessagePublisher,
        settler: LostRowSettler,
        lease_ttl_s: float,
        metrics: RoleMetrics,
    ) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._names = ModelNames(fleet)
        self._queues: dict[str, set[str]] = {}  # by pool: those of models that may hold messages
        self._published: dict[str, dict[ShardRef, int]] = {}  # by pool: when the unclaimed attempts were last (ms)
        self._epoch = 0
        self._publisher = publisher
        self._settler = settler
        self._metrics = metrics
        self._lease_ttl_s = lease_ttl_s
        self._guard = JobGuard(ledger, "a lost attempt of it could not be ended")
        self._rng = random.Random()  # noqa: S311  # jitter, no secret

    def step(self, epoch: int) -> None:
        """End attempts whose lease has expired, and publish lost messages again."""
        extended = self._ledger.leases.extend_all(epoch, self._lease_ttl_s)
        if extended:
            log.warning("leases could not be checked for a while: %d of them are extended", extended)
            self._ledger.leases.restart_paces(chain.from_iterable(self._ledger.index.in_flight().values()), epoch)
        now_ms = self._ledger.now_ms()
        for ref in self._ledger.shards.expired(now_ms):
            if not self._guard.is_set_aside(ref.job_id):
                with self._guard.over(ref.job_id), about_attempt(ref):
                    self._end_attempt(ref, epoch)
        self._cut_waits(now_ms)
        if epoch != self._epoch:
            self._ledger.index.rebuild_all(self._ledger.jobs.live_ids())
            self._find_queues()
            self._epoch = epoch
        by_pool: dict[str, list[JobStage]] = defaultdict(list)
        for one in self._ledger.jobs.read_stages(chain.from_iterable(self._ledger.index.in_flight().values())):
            by_pool[one.spec.pool].append(one)
        if not (by_pool or self._queues):
            return
        views = self._fleet.pools()
        for pool in by_pool.keys() | self._queues.keys():
            with apart(f"recovering the messages of pool {pool}"):
                self._empty_abandoned_queues(pool, by_pool[pool], views.get(pool, EMPTY), epoch)
                if by_pool[pool]:
                    self._find_lost_messages(pool, now_ms)

    def _cut_waits(self, now_ms: int) -> None:
        late = self._ledger.index.late_retries(now_ms + int(MAX_DELAY_S * 1000), MAX_LATE)
        latest_ms = {
            one.key: now_ms + int(max(one.spec.retry.backoff_max_s, MAX_DELAY_S) * 1000)
            for one in self._ledger.jobs.read_stages(late)
        }
        self._ledger.index.rebuild(self._ledger.shards.cut_waits(latest_ms))

    def _end_attempt(self, ref: ShardRef, epoch: int) -> None:
        shards = self._ledger.shards
        shard = shards.read(ref)
        if shard is None or shard.token != ref.token or shard.state is not ShardState.RUNNING:
            self._end_superseded(ref, epoch)
            return
        record = self._ledger.jobs.find(ref.job_id)
        if isinstance(record, UnreadableJob):
            shards.expire_attempt(ref, epoch, delay_s=0)  # another version runs it again, or a user cancels it
            return
        spec = record.spec.stages[ref.stage]
        decision = decide(shard, Lost(), spec.retry, self._rng, is_undivided=spec.is_undivided)
        match decision:
            case Requeue(delay_s):
                taken = shards.expire_attempt(ref, epoch, delay_s=delay_s) is ExpireAttemptAnswer.OK
                event, then = LogEvent.LOST, "another attempt follows"
            case Split():
                taken = shards.split(shard, epoch) is SplitAnswer.OK
                event, then = LogEvent.SPLIT, "its two halves take over"
            case DeadLetter():
                taken = self._settler.settle_as_dead(record, shard, epoch)
                event, then = LogEvent.DEAD, "its only row has failed"
            case GiveUp(error):
                taken = shards.expire_attempt(ref, epoch, delay_s=self._lease_ttl_s) is ExpireAttemptAnswer.OK
                if taken:
                    self._ledger.jobs.stop(ref.job_id, JobState.FAILING, error)
                event, then = LogEvent.FAILED, "the job fails"
            case Settle():
                raise AssertionError("a lost attempt has no results")
            case never:
                assert_never(never)
        if taken:
            stage_name = record.spec.name_in_chain(ref.stage)
            self._publisher.report_lost(spec.operator, ref, shard.worker, record.spec.name, stage_name)
            self._report_lost(ref, shard.worker, event, f"{NOT_RENEWED}; {then}")
            self._metrics.lost(spec, decision)

    def _end_superseded(self, ref: ShardRef, epoch: int) -> None:
        """Drop the lease of an attempt whose shard is another one's; if it was a straggler, its end is reported."""
        worker = self._ledger.stragglers.worker(ref)
        answer = self._ledger.shards.expire_attempt(ref, epoch, delay_s=0)
        if answer is not ExpireAttemptAnswer.DROPPED:
            return
        self._report_lost(ref, worker, LogEvent.LOST, f"{NOT_RENEWED}; the second attempt continues")
        for record in self._ledger.jobs.read_many([ref.job_id]):
            operator, stage_name = record.spec.stages[ref.stage].operator, record.spec.name_in_chain(ref.stage)
            self._publisher.report_lost(operator, ref, worker, record.spec.name, stage_name)

    def _report_lost(self, ref: ShardRef, worker: str, event: LogEvent, message: str) -> None:
        log.warning("attempt %s was lost: %s", ref.attempt_key, message)
        self._ledger.log.note(ref.job_id, LogLevel.WARNING, event, message, ref=ref, worker=worker)

    def _find_queues(self) -> None:
        """Find the queues that an earlier leader may have left."""
        for queue in self._ledger.find_queues(queue_of("")):
            pool, slash, _ = queue.removeprefix(queue_of("")).partition("/")
            if slash:
                self._queues.setdefault(pool, set()).add(queue)

    def _empty_abandoned_queues(self, pool: str, stages: list[JobStage], view: PoolView, epoch: int) -> None:
        """Take messages out of queues that no worker consumes any more, so that their shards are dispatched again.

        A queue is watched from when its model has a shard in flight until it has none, nobody consumes from it, and it
        is found empty.
        """
        consumed = {model_queue_of(pool, model) for model in view.models}
        if view.has_spare:
            consumed.add(spare_queue_of(pool))
        wanted = {model_queue_of(pool, model) for model in self._names.of(stages).values()}
        wanted.add(spare_queue_of(pool))
        watched = self._queues.get(pool, set()) | wanted
        kept = (wanted if stages else set()) | (watched & consumed)
        for queue in watched - consumed:
            refs = [attempt_of(message) for message in self._ledger.take_messages(queue)]
            if refs:
                kept.add(queue)
                taken = self._ledger.shards.unqueue_orphaned(refs, pool, epoch)
                log.info("%d shard(s) are unqueued from %s, which no worker consumes any more", taken, queue)
        self._queues[pool] = kept
        if not kept:
            del self._queues[pool]

    def _find_lost_messages(self, pool: str, now_ms: int) -> None:
        queued = self._ledger.shards.queued(pool)
        lengths = self._ledger.queue_lengths([queue_of(pool), *self._queues.get(pool, ())])
        missing = len(queued) - sum(lengths)
        before = self._published.get(pool, {})
        published = self._published[pool] = {ref: before.get(ref, at) for ref, at in queued}
        # one that was queued long after now was so before the clock went back
        late = [ref for ref, at in published.items() if abs(now_ms - at) > MESSAGE_GRACE_MS]
        for ref in late[: max(missing, 0)]:
            published[ref] = now_ms  # next time another one may be what is missing
            if not self._guard.is_set_aside(ref.job_id):
                with self._guard.over(ref.job_id):
                    self._publish_again(ref, pool)

    def _publish_again(self, ref: ShardRef, pool: str) -> None:
        for record in self._ledger.jobs.read_many([ref.job_id]):
            message = f"not claimed within {MESSAGE_GRACE_MS / 1000:g} s, published again"
            log.warning("attempt %s: %s", ref.attempt_key, message)
            self._ledger.log.note(ref.job_id, LogLevel.INFO, LogEvent.REDELIVERED, message, ref=ref)
            spec = record.spec.stages[ref.stage]
            stage_name = record.spec.name_in_chain(ref.stage)
            self._publisher.publish(spec.operator, queue_of(pool), ref, record.spec.name, stage_name)
            self._metrics.message_redelivered(spec)
