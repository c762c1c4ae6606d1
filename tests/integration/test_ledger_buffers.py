"""The index of stages that may queue shards, and the room in their buffers, on a real Valkey."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchmill.jobs.completion import Completion
from batchmill.jobs.job import JobForm, StageForm
from batchmill.jobs.shard import Shard, ShardId, Slice
from batchmill.ledger import Ledger
from batchmill.ledger.shards import PlanStep
from batchmill.ledger.views.index import Window
from batchmill.sources.base import RowCount
from batchmill_coordinator.scheduling.buffer_credit import within_buffer
from support.ledger_steps import claim, submit

if TYPE_CHECKING:
    import redis

JOB, BUFFER = "chain", 1 << 20


def plan_shards(ledger: Ledger, epoch: int, stage: int, count: int) -> None:
    record = ledger.jobs.read(JOB).stages[stage]
    shards = [Shard(JOB, stage, ShardId((n,)), n, 1, (Slice(0, 0, 1, 1),)) for n in range(count)]
    step = PlanStep(shards, [10] * count, "1 0", at_end=False, total=RowCount(count, exact=False))
    ledger.shards.plan(JOB, record, step, epoch)


@pytest.mark.parametrize("next_is_at_work", [True, False])
@pytest.mark.parametrize(
    ("nbytes", "in_flight", "has_room"),
    [(BUFFER // 3, 0, True), (BUFFER // 3, 1, True), (BUFFER // 3, 2, False), (BUFFER * 2 // 3, 0, False)],
)
def test_a_stage_is_ready_while_its_buffer_has_room_for_one_more_shard_as_the_dispatcher_counts(
    redis_client: redis.Redis, prefix: str, nbytes: int, in_flight: int, *, has_room: bool, next_is_at_work: bool
) -> None:
    ledger = Ledger(redis_client, prefix)
    epoch = ledger.lead("me", 3600)
    stages = [StageForm(operator="echo", buffer_bytes=BUFFER), StageForm(operator="echo", name="last")]
    submit(ledger, JOB, spec=JobForm(stages=stages).spec())
    plan_shards(ledger, epoch, 0, 5)
    for number in range(1 + in_flight):
        ref = ledger.shards.queue(JOB, ledger.jobs.read(JOB).first, ShardId((number,)), epoch)
        assert ref is not None
        if number == 0:
            claim(ledger, ref)
            assert ledger.shards.commit(ref, Completion(1, 0, nbytes))
    if next_is_at_work:
        plan_shards(ledger, epoch, 1, 1)
    (one,) = ledger.jobs.read_stages([(JOB, 0)])
    ready = ledger.index.due({"default": Window(10, frozenset({"echo"}))}, 64).ready.get("default", [])
    assert bool(within_buffer(one, [ShardId((4,))])) is has_room
    assert ((JOB, 0) in ready) is (has_room or not next_is_at_work)
