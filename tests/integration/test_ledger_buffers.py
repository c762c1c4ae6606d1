"""The index of stages that may queue shards, and the room in their buffers, on a real Valkey."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from batchmill.jobs.completion import Completion
from batchmill.jobs.job import JobForm, StageForm
from batchmill.jobs.shard import Shard, ShardId, Slice
from batchmill.ledger import Ledger
from batchmill.ledger.formats.encodings import SourceRowBorders
from batchmill.ledger.formats.settlement import Settled
from batchmill.ledger.plan_step import PlanStep
from batchmill.ledger.views.index import Window
from batchmill.sources.base import RowCount
from batchmill_coordinator.scheduling.buffer_credit import within_buffer, within_limits
from support.ledger_steps import claim, submit

if TYPE_CHECKING:
    import redis

JOB, BUFFER = "chain", 1 << 20
STAGES = [StageForm(operator="echo", buffer_bytes=BUFFER), StageForm(operator="echo", name="last")]
SPEC = JobForm(stages=STAGES).spec()


def plan_shards(ledger: Ledger, epoch: int, stage: int, count: int, nbytes: int = 10) -> None:
    record = ledger.jobs.read(JOB).stages[stage]
    shards = [Shard(JOB, stage, ShardId((n,)), n, 1, (Slice(0, 0, 1, 1),)) for n in range(count)]
    step = PlanStep(shards, [nbytes] * count, "1 0", at_end=False, total=RowCount(count, exact=False))
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
    submit(ledger, JOB, spec=SPEC)
    plan_shards(ledger, epoch, 0, 5)
    for number in range(1 + in_flight):
        ref = ledger.shards.queue(JOB, ledger.jobs.read(JOB).first, ShardId((number,)), epoch)
        assert ref is not None
        if number == 0:
            claim(ledger, ref)
            assert ledger.shards.commit(ref, Completion(1, 0, nbytes))
    if next_is_at_work:
        plan_shards(ledger, epoch, 1, 1)
    assert has_credit(ledger) is has_room
    assert is_ready(ledger) is (has_room or not next_is_at_work)


@pytest.mark.parametrize(("nbytes", "in_flight", "has_room"), [(BUFFER // 32, 3, True), (BUFFER // 32, 4, False)])
def test_before_the_first_commit_results_are_estimated_from_the_input(
    ledger: Ledger, epoch: int, nbytes: int, in_flight: int, *, has_room: bool
) -> None:
    submit(ledger, JOB, spec=SPEC)
    plan_shards(ledger, epoch, 0, 6, nbytes)
    plan_shards(ledger, epoch, 1, 1)
    for number in range(in_flight):
        assert ledger.shards.queue(JOB, ledger.jobs.read(JOB).first, ShardId((number,)), epoch)
    assert has_credit(ledger) is has_room
    assert is_ready(ledger) is has_room


def has_credit(ledger: Ledger) -> bool:
    (one,) = ledger.jobs.read_stages([(JOB, 0)])
    return bool(within_buffer(one, [ShardId((4,))]))


def is_ready(ledger: Ledger) -> bool:
    ready = ledger.index.due({"default": Window(10, frozenset({"echo"}))}, 64).ready
    return (JOB, 0) in ready.get("default", [])


def test_a_stage_has_no_more_shards_under_way_than_it_may_have(redis_client: redis.Redis, prefix: str) -> None:
    ledger = Ledger(redis_client, prefix)
    epoch = ledger.lead("me", 60)
    submit(ledger, JOB, spec=JobForm(operator="echo").spec())
    plan_shards(ledger, epoch, 0, 5)
    assert ledger.shards.queue(JOB, ledger.jobs.read(JOB).first, ShardId((0,)), epoch) is not None
    (one,) = ledger.jobs.read_stages([(JOB, 0)])
    waiting = [ShardId((number,)) for number in range(1, 5)]

    def allowed(most: int | None) -> list[ShardId]:
        spec = one.spec.model_copy(update={"max_at_once": most})
        return within_limits(one._replace(stage=replace(one.stage, spec=spec)), waiting)

    assert allowed(None) == waiting
    assert allowed(3) == waiting[:2]
    assert allowed(1) == []


@pytest.mark.parametrize("next_is_at_work", [True, False])
def test_the_shard_that_the_next_stage_waits_for_is_found_however_many_retries_are_due_before_it(
    redis_client: redis.Redis, prefix: str, *, next_is_at_work: bool
) -> None:
    ledger = Ledger(redis_client, prefix)
    epoch = ledger.lead("me", 3600)
    submit(ledger, JOB, spec=SPEC)
    plan_shards(ledger, epoch, 0, 5)
    for number in reversed(range(5)):  # the first one is the last to be due
        ref = ledger.shards.queue(JOB, ledger.jobs.read(JOB).first, ShardId((number,)), epoch)
        assert ref is not None
        claim(ledger, ref)
        ledger.shards.end_attempt(ref, delay_s=(5 - number) / 1000, blame=True)
    if next_is_at_work:
        plan_shards(ledger, epoch, 1, 1)
    (one,) = ledger.jobs.read_stages([(JOB, 0)])
    found = ledger.shards.to_queue_of([one], 2, ledger.now_ms() + 1_000)[one.key]
    assert found == [ShardId((number,)) for number in ([4, 3] if next_is_at_work else [4, 3, 2, 1, 0])]


def test_where_source_rows_begin_is_forgotten_with_the_results_between_stages(
    redis_client: redis.Redis, prefix: str
) -> None:
    ledger = Ledger(redis_client, prefix)
    submit(ledger, JOB, spec=SPEC)
    first = ShardId((0,))
    for stage in range(2):
        ledger.results.note_borders(JOB, Settled(stage, first, 1, 1, 0, 10, 0), SourceRowBorders.of([0], [0]))
    ledger.retention.note_deleted_between(JOB, [0])
    assert [ledger.results.borders(JOB, stage, [first]) == [None] for stage in range(2)] == [True, False]
