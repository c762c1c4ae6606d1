"""The order in which the dispatcher queues the shards of two chains, over a real ledger."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from batchmill.jobs.completion import Completion
from batchmill.jobs.job import JobForm, StageForm
from batchmill.jobs.shard import Shard, ShardId, Slice
from batchmill.ledger.plan_step import PlanStep
from batchmill.sources.base import RowCount
from batchmill.telemetry.metrics import new_registry
from batchmill_coordinator.fleet.fleet_view import FleetView
from batchmill_coordinator.metering.counts import RoleMetrics
from batchmill_coordinator.roles.dispatcher import Dispatcher
from support.hand_clock import HandClock
from support.ledger_steps import claim, submit
from support.planning import announce_worker

if TYPE_CHECKING:
    from batchmill.jobs.shard import ShardRef
    from batchmill.ledger import Ledger

SLOTS, SHARDS = 4, 8
JOBS = ("job-1", "job-2")
SPEC = JobForm(stages=[StageForm(operator="echo", pool="default", name=name) for name in ("first", "second")]).spec()


@dataclass
class Pool:
    """A pool whose workers take every message at once. Each committed part is planned for the second stage."""

    ledger: Ledger
    epoch: int
    shard_s: float
    messages: list[ShardRef] = field(default_factory=list)
    running: list[ShardRef] = field(default_factory=list)

    def __post_init__(self) -> None:
        announce_worker(self.ledger, shards_at_once=SLOTS)
        metrics = RoleMetrics(new_registry())
        self.dispatcher = Dispatcher(self.ledger, FleetView(self.ledger, HandClock()), cast("Any", self), metrics)

    def publish(self, _operator: str, _queue: str, ref: ShardRef, *_: object) -> None:
        """As `MessagePublisher` does."""
        self.messages.append(ref)

    def submit(self, job_id: str) -> None:
        submit(self.ledger, job_id, spec=SPEC)
        self.plan(job_id, 0, SHARDS)

    def plan(self, job_id: str, stage: int, count: int) -> None:
        record = self.ledger.jobs.read(job_id).stages[stage]
        first = record.shards_planned
        shards = [Shard(job_id, stage, ShardId((n,)), n, 1, (Slice(0, 0, 1, 1),)) for n in range(first, first + count)]
        at_end = first + count == SHARDS
        step = PlanStep(shards, [10] * count, f"{first + count} 0", at_end, RowCount(SHARDS, exact=True))
        self.ledger.shards.plan(job_id, record, step, self.epoch)

    def dispatch(self) -> None:
        """A turn of the dispatcher; then workers claim what they have places for."""
        self.dispatcher.step(self.epoch)
        while self.messages and len(self.running) < SLOTS:
            self.running.append(self.messages.pop(0))
            claim(self.ledger, self.running[-1])

    def commit(self) -> ShardRef:
        """The oldest attempt commits, which wakes the dispatcher before the planner."""
        ref = self.running.pop(0)
        assert self.ledger.shards.commit(ref, Completion(1, 0, 10, busy_s=self.shard_s))
        self.dispatch()
        if ref.stage == 0:
            self.plan(ref.job_id, 1, 1)
            self.dispatch()
        return ref


def run_two_chains(ledger: Ledger, epoch: int, shard_s: float) -> tuple[list[ShardRef], int]:
    """The attempts in the order of their commits, and the most messages that waited for a place."""
    pool = Pool(ledger, epoch, shard_s)
    for job_id in JOBS:
        pool.submit(job_id)
    pool.dispatch()
    done, waited = [], 0
    while pool.running:
        done.append(pool.commit())
        waited = max(waited, len(pool.messages))
    assert len(done) == len(JOBS) * 2 * SHARDS
    return done, waited


def test_what_is_committed_goes_on_before_more_of_the_stage_before_is_queued(ledger: Ledger, epoch: int) -> None:
    done, waited = run_two_chains(ledger, epoch, shard_s=3.0)
    assert waited == 0
    for job_id in JOBS:
        stages, ahead = [ref.stage for ref in done if ref.job_id == job_id], 0
        for place in range(len(stages)):
            ahead = max(ahead, stages[: place + 1].count(0) - stages[: place + 1].count(1))
        assert ahead <= SLOTS  # what was at work when the first part was committed


def test_messages_of_short_shards_wait_so_that_no_worker_does(ledger: Ledger, epoch: int) -> None:
    _, waited = run_two_chains(ledger, epoch, shard_s=0.01)
    assert waited == SLOTS // 2
