"""Commits of attempts that pass several stages, on a real Valkey."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from batchmill.jobs.completion import Completion, PassedStage, TriedStage
from batchmill.jobs.cost import NANO, Parts
from batchmill.jobs.job import JobError, JobForm, JobState, StageForm
from batchmill.jobs.shard import Shard, ShardId, ShardState, Slice
from batchmill.jobs.status import NO_TOKENS, TokenSums
from batchmill.ledger import Ledger
from batchmill.ledger.formats.encodings import SourceRowBorders
from batchmill.ledger.formats.settlement import Settled, SplitUp
from batchmill.ledger.plan_step import PlanStep
from batchmill.ledger.submission import FirstPlace, OneShardPlan, Submission
from batchmill.ledger.views.index import Window
from batchmill.sources.base import RowCount
from batchmill_coordinator.admission.fusion import decide_fusion
from batchmill_coordinator.scheduling.buffer_credit import within_buffer
from support.ledger_steps import claim, submit

if TYPE_CHECKING:
    import redis

    from batchmill.jobs.job import JobSpec
    from batchmill.jobs.shard import ShardRef

JOB, ROWS, BUFFER = "chain", 10, 1 << 20
PRICE, SECOND = 3600 * NANO, 1_000_000  # one unit a second; µs
OWN = Completion(ROWS, 0, 0, results=12)
TOKENS = TokenSums(prompt=30, cached=10, generated=4)


def passing(rows: int, dead: int = 0, revision: str = "1") -> PassedStage:
    return PassedStage(
        Completion(rows, dead, 7, dead_by_type=(("E", dead),) if dead else (), tokens=TOKENS),
        None,
        Parts(5),
        "1",
        revision,
    )


def chain(*, any_version: bool = False, budget: float | None = None, **last: Any) -> JobSpec:
    """Three stages that run together, unless something about the last one keeps it apart."""
    stages = [
        StageForm(operator="echo", name=name, buffer_bytes=BUFFER, **(last if name == "c" else {})) for name in "abc"
    ]
    form = JobForm(stages=stages, fuse=True, any_version=any_version, budget=budget)
    return decide_fusion(form.spec(), lambda _: None)


def running(ledger: Ledger, shards: int = 1, **last: Any) -> tuple[int, ShardRef]:
    """Such a job, all of it planned, whose last shard is claimed."""
    epoch = ledger.lead("me", 60)
    submit(ledger, JOB, spec=chain(**last))
    slices = (Slice(0, 0, ROWS, ROWS),)
    planned = [Shard(JOB, 0, ShardId((n,)), n * ROWS, ROWS, slices) for n in range(shards)]
    step = PlanStep(planned, [10] * shards, "end", at_end=True, total=RowCount(ROWS * shards, exact=True))
    ledger.shards.plan(JOB, ledger.jobs.read(JOB).first, step, epoch)
    ref = ledger.shards.queue(JOB, ledger.jobs.read(JOB).first, ShardId((shards - 1,)), epoch)
    assert ref is not None
    claim(ledger, ref, price_nano=PRICE)
    return epoch, ref


def settled(ledger: Ledger, stage: int, number: int = 0) -> Settled | SplitUp | None:
    return ledger.results.settled(JOB, stage, [ShardId((number,))])[0]


@pytest.fixture
def ledger(redis_client: redis.Redis, prefix: str) -> Ledger:
    return Ledger(redis_client, prefix)


def test_a_commit_settles_a_shard_in_all_stages_that_were_passed(ledger: Ledger) -> None:
    _, ref = running(ledger)
    assert ledger.shards.commit(ref, OWN, used=Parts(3), passed=[passing(10, 2), passing(10)])
    assert ledger.shards.commit(ref, OWN, used=Parts(3), passed=[passing(10, 2), passing(10)])  # asked again
    record = ledger.jobs.read(JOB)
    assert [(one.rows_done, one.rows_dead, one.shards_done) for one in record.stages] == [
        (10, 0, 1),
        (10, 2, 1),
        (10, 0, 1),
    ]
    assert [(one.rows_planned, one.rows_total) for one in record.stages] == [(10, 10), (12, 12), (10, 10)]
    assert [one.cost.us.useful for one in record.stages] == [3, 5, 5]
    assert [one.tokens for one in record.stages] == [NO_TOKENS, TOKENS, TOKENS]
    assert record.is_settled
    assert ledger.jobs.dead_counts(JOB) == {"E": 2}


def test_what_an_attempt_leaves_is_a_shard_of_the_next_stage(ledger: Ledger) -> None:
    epoch, ref = running(ledger)
    tried = TriedStage(0.0, failures=1, checkpoint="blob", used=Parts(retried=4))
    assert ledger.shards.commit(ref, OWN, passed=[passing(12)], tried=tried)
    record = ledger.jobs.read(JOB)
    assert not record.is_settled
    assert [one.shards_live for one in record.stages] == [0, 0, 1]
    (one,) = ledger.jobs.read_stages([(JOB, 2)])
    assert ledger.shards.to_queue_of([one], 5, ledger.now_ms()) == {(JOB, 2): [ShardId((0,))]}
    again = ledger.shards.queue(JOB, record.last, ShardId((0,)), epoch)
    assert again is not None
    shard = claim(ledger, again)
    assert (shard.rows, shard.failures, shard.checkpoint, shard.token) == (12, 1, "blob", ref.token + 1)
    assert shard.slices == (Slice(0, 0, 12, 12, part=f"0-a{ref.token}"),)
    assert ledger.shards.commit(again, Completion(12, 0, 1))
    assert ledger.jobs.read(JOB).is_settled


def test_a_shard_without_results_is_settled_in_all_stages_that_follow(ledger: Ledger) -> None:
    _, ref = running(ledger)
    assert ledger.shards.commit(ref, Completion(ROWS, 0, 0, results=0, rows_filtered=ROWS))
    record = ledger.jobs.read(JOB)
    assert record.is_settled
    assert [one.rows_total for one in record.stages] == [ROWS, 0, 0]


def test_a_stage_that_is_bound_to_another_version_is_not_passed(ledger: Ledger) -> None:
    _, first = running(ledger, shards=2)
    assert ledger.shards.commit(first, OWN, passed=[passing(12), passing(12)])
    second = ledger.shards.queue(JOB, ledger.jobs.read(JOB).first, ShardId((0,)), ledger.lead("me", 60))
    assert second is not None
    claim(ledger, second)
    assert not ledger.shards.commit(second, OWN, passed=[passing(12, revision="2"), passing(12)])
    assert settled(ledger, 0) is None
    assert ledger.shards.commit(second, OWN)
    found = settled(ledger, 1, 1)
    assert isinstance(found, Settled)
    assert settled(ledger, 1) is None
    assert ledger.jobs.read(JOB).stages[1].shards_live == 1


def test_a_stage_of_any_version_is_passed_by_several_and_bound_to_none(ledger: Ledger) -> None:
    _, first = running(ledger, shards=2, any_version=True)
    assert ledger.shards.commit(first, OWN, passed=[passing(12), passing(12)])
    second = ledger.shards.queue(JOB, ledger.jobs.read(JOB).first, ShardId((0,)), ledger.lead("me", 60))
    assert second is not None
    claim(ledger, second)
    assert ledger.shards.commit(second, OWN, passed=[passing(12, revision="2"), passing(12)])
    record = ledger.jobs.read(JOB)
    assert record.is_settled
    assert {(one.operator_version, one.revision) for one in record.stages} == {("", "")}


def test_a_failure_of_the_operator_in_a_stage_that_was_not_passed_stops_the_job(ledger: Ledger) -> None:
    _, ref = running(ledger)
    error = JobError(code="operator_failed", message="it is broken")
    assert ledger.shards.commit(ref, OWN, tried=TriedStage(0.0, 1, stop_with=error))
    record = ledger.jobs.read(JOB)
    assert (record.state, record.error) == (JobState.FAILING, error)


def test_the_halves_of_a_shard_are_halves_in_all_stages_that_run_with_it(
    redis_client: redis.Redis, prefix: str
) -> None:
    ledger = Ledger(redis_client, prefix)
    _, ref = running(ledger)
    later = Ledger(redis_client, prefix, now_ms=ledger.now_ms() + 10_000_000)
    epoch = later.lead("me", 60)
    shard = later.shards.read(ref)
    assert shard is not None
    assert shard.state is ShardState.RUNNING
    later.shards.split(shard, epoch)
    assert all(isinstance(settled(later, stage), SplitUp) for stage in range(3))


def test_a_commit_notes_of_every_stage_that_was_passed_what_a_later_one_needs_to_gather(ledger: Ledger) -> None:
    _, ref = running(ledger, pool="other")
    borders = SourceRowBorders.of([3, 5], [0, 4])
    own = replace(OWN, rows=ROWS - 1, rows_dead=1, incomplete=(7,))
    passed = replace(passing(10, 2), completion=Completion(10, 2, 7, borders=borders.write(), incomplete=(4, 8)))
    assert ledger.shards.commit(ref, own, passed=[passed])
    assert ledger.results.borders(JOB, 1, [ShardId((0,))]) == [borders]
    assert ledger.results.borders(JOB, 0, [ShardId((0,))]) == [None]
    assert ledger.results.are_incomplete(JOB, [3, 4, 5, 7, 8]) == [False, True, False, True, True]


def test_a_small_chain_is_queued_as_it_is_accepted_and_ended_by_the_commit_of_all_its_stages(ledger: Ledger) -> None:
    ledger.lead("me", 60)
    shard = Shard(JOB, 0, ShardId((0,)), 0, ROWS, (Slice(0, 0, ROWS, ROWS),))
    place = FirstPlace("pool.default/model", 1)
    asked = Submission(JOB, chain(), "d", rows_total=ROWS, plan=OneShardPlan(shard, 10, "end"), place=place)
    queued = ledger.jobs.submit(asked, max_live_jobs=10).queued
    assert queued is not None
    claim(ledger, queued.ref)
    assert ledger.shards.commit(queued.ref, OWN, passed=[passing(12), passing(12)])
    record = ledger.jobs.read(JOB)
    assert (record.state, record.is_settled) == (JobState.COMPLETED, True)
    assert [one.rows_done for one in record.stages] == [ROWS, 12, 12]
    assert [(one.id, one.rows_done) for one in ledger.jobs.take_unreported(5)] == [(JOB, 12)]


@pytest.mark.parametrize("last_is_at_work", [True, False])
@pytest.mark.parametrize(("nbytes", "has_room"), [(BUFFER // 3, True), (BUFFER * 2 // 3, False)])
def test_the_first_stage_is_ready_while_the_buffer_behind_those_that_run_with_it_has_room(
    ledger: Ledger, nbytes: int, *, has_room: bool, last_is_at_work: bool
) -> None:
    epoch, ref = running(ledger, shards=3, pool="other")
    passed = replace(passing(12), completion=Completion(12, 0, nbytes))
    assert ledger.shards.commit(ref, OWN, passed=[passed])
    if last_is_at_work:
        one = Shard(JOB, 2, ShardId((0,)), 0, 12, (Slice(0, 0, 12, 12, part="2-a1"),))
        step = PlanStep([one], [nbytes], "1 0", at_end=False, total=RowCount(36, exact=False))
        ledger.shards.plan(JOB, ledger.jobs.read(JOB).last, step, epoch)
    (first,) = ledger.jobs.read_stages([(JOB, 0)])
    assert bool(within_buffer(first, [ShardId((1,))])) is has_room
    ready = ledger.index.due({"default": Window(10, frozenset({"echo"}))}, 64).ready
    assert ((JOB, 0) in ready.get("default", [])) is (has_room or not last_is_at_work)


def test_a_budget_that_stages_use_up_together_pauses_the_job_before_what_an_attempt_leaves(ledger: Ledger) -> None:
    epoch, second = running(ledger, shards=2, budget=3.0)
    first = ledger.shards.queue(JOB, ledger.jobs.read(JOB).first, ShardId((0,)), epoch)
    assert first is not None
    claim(ledger, first, price_nano=PRICE)
    passed = replace(passing(12), used=Parts(2 * SECOND))
    assert ledger.shards.commit(first, OWN, used=Parts(SECOND), passed=[passed])
    record = ledger.jobs.read(JOB)
    assert (record.state, record.cost_nano) == (JobState.PAUSED, 3 * NANO)
    assert [one.cost.us.total for one in record.stages] == [SECOND, 2 * SECOND, 0]
    assert ledger.shards.queue(JOB, record.last, ShardId((0,)), epoch) is None
    assert ledger.shards.renew([second], 10_000, [0]) == ["paused"]
    ledger.jobs.resume(JOB, 3.5)
    left = ledger.shards.queue(JOB, record.last, ShardId((0,)), epoch)
    assert left is not None
    claim(ledger, left, price_nano=PRICE)
    assert ledger.shards.commit(left, Completion(12, 0, 1), used=Parts(SECOND))
    assert ledger.jobs.read(JOB).state is JobState.PAUSED  # the second shard is left


def test_a_chain_that_uses_up_its_budget_with_its_last_rows_is_not_paused(ledger: Ledger) -> None:
    _, ref = running(ledger, budget=1.0)
    passed = replace(passing(12), used=Parts(SECOND))
    assert ledger.shards.commit(ref, OWN, used=Parts(SECOND), passed=[passed, passed])
    record = ledger.jobs.read(JOB)
    assert (record.state, record.is_settled, record.cost_nano) == (JobState.RUNNING, True, 3 * NANO)
