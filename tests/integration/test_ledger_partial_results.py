"""Commits of the first rows of a shard, on a real Valkey."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from batchmill.errors import StaleToken
from batchmill.jobs.completion import Completion, PassedStage, ShardRest, TriedStage
from batchmill.jobs.cost import Parts
from batchmill.jobs.job import JobForm, StageForm
from batchmill.jobs.shard import Shard, ShardId, ShardRef, Slice
from batchmill.ledger.formats.settlement import Settled, SplitUp
from batchmill.ledger.plan_step import PlanStep
from batchmill.sources.base import RowCount
from batchmill.stage_results import settled_shards
from batchmill_coordinator.admission.fusion import decide_fusion
from support.ledger_steps import LEASE_MS, claim, submit

if TYPE_CHECKING:
    from batchmill.ledger import Ledger

JOB, ROWS = "job-1", 10
LATER = PassedStage(Completion(3, 0, 0), None, Parts(0), "1", "1")


def running(ledger: Ledger, epoch: int, *, fuse: bool = False) -> Shard:
    """The only shard of a chain of three stages, claimed."""
    form = JobForm(stages=[StageForm(operator="echo", name=name) for name in "abc"], fuse=fuse)
    submit(ledger, JOB, spec=decide_fusion(form.spec(), lambda _: None))
    shard = Shard(JOB, 0, ShardId((0,)), 0, ROWS, (Slice(0, 0, ROWS, ROWS),))
    step = PlanStep([shard], [10], "end", at_end=True, total=RowCount(ROWS, exact=True))
    ledger.shards.plan(JOB, ledger.jobs.read(JOB).first, step, epoch)
    return claimed(ledger, epoch, ShardId((0,)))


def claimed(ledger: Ledger, epoch: int, shard_id: ShardId, stage: int = 0) -> Shard:
    ref = ledger.shards.queue(JOB, ledger.jobs.read(JOB).stages[stage], shard_id, epoch)
    assert ref is not None
    return claim(ledger, ref)


def commit_part(ledger: Ledger, shard: Shard, rows: int, **options: Any) -> Shard:
    """Commit the first rows of a shard; returns the one that has the others."""
    _, rest = shard.part_and_rest(rows)
    assert ledger.shards.commit(shard.ref, Completion(rows, 0, 7, rest=ShardRest(rest)), **options)
    return rest


def settled(ledger: Ledger, *shard_id: int, stage: int = 0) -> Settled | SplitUp | None:
    return ledger.results.settled(JOB, stage, [ShardId(shard_id)])[0]


def test_another_shard_has_the_rows_that_were_left(ledger: Ledger, epoch: int) -> None:
    shard = running(ledger, epoch)
    rest = commit_part(ledger, shard, 3)
    first = ledger.jobs.read(JOB).first
    assert (first.rows_done, first.shards_live, first.shards_done, first.is_settled) == (3, 1, 1, False)
    assert settled(ledger, 0) == SplitUp(ShardId((0,)), 2)
    assert settled(ledger, 0, 0) == Settled(0, ShardId((0, 0)), shard.token, 3, 0, 7, 0)
    found = claimed(ledger, epoch, ShardId((0, 1)))
    assert (found.first_row, found.rows, found.skip, found.fitting_rows) == (3, 7, 3, 3)
    assert found.token == rest.token + 1
    assert ledger.shards.commit(found.ref, Completion(7, 0, 7))
    assert ledger.jobs.read(JOB).first.is_settled


def test_however_many_parts_there_are_they_are_parts_of_one_shard(ledger: Ledger, epoch: int) -> None:
    shard = running(ledger, epoch)
    for number in range(1, ROWS):
        commit_part(ledger, shard, 1)
        shard = claimed(ledger, epoch, ShardId((0, number)))
    assert ledger.shards.commit(shard.ref, Completion(1, 0, 7))
    (one,) = settled_shards(ledger, ledger.jobs.read(JOB), 0)
    assert one.is_complete
    assert [(part.shard_id, part.first_row) for part in one.parts] == [((0, n), n) for n in range(ROWS)]


def test_a_part_is_committed_once_whoever_commits_it_again(ledger: Ledger, epoch: int) -> None:
    shard = running(ledger, epoch)
    ledger.shards.end_attempt(shard.ref, delay_s=0, blame=False)
    again = claimed(ledger, epoch, shard.shard_id)
    for _ in range(2):  # the answer was lost
        commit_part(ledger, again, 3)
    for rows in (3, 4):
        with pytest.raises(StaleToken):
            commit_part(ledger, shard, rows)
    for late in (shard, again):
        with pytest.raises(StaleToken):
            ledger.shards.commit(late.ref, Completion(ROWS, 0, 7))
    assert ledger.jobs.read(JOB).first.rows_done == 3


def test_no_part_has_the_name_of_what_a_half_stores(ledger: Ledger, epoch: int) -> None:
    shard = running(ledger, epoch)
    now_ms = ledger.now_ms() + 2 * LEASE_MS
    ledger._store.now_ms = now_ms
    ledger.shards.split(shard, epoch)
    half = claimed(ledger, epoch, ShardId((0, 0)))
    part, _ = shard.part_and_rest(3)
    assert half.shard_id == part.shard_id
    assert half.token > part.token
    rest = commit_part(ledger, half, 2)
    assert rest.shard_id == (0, 0, 1)
    with pytest.raises(StaleToken):
        commit_part(ledger, shard, 3)


def test_a_part_goes_on_through_the_stages_that_run_with_its_own(ledger: Ledger, epoch: int) -> None:
    shard = running(ledger, epoch, fuse=True)
    commit_part(ledger, shard, 3, passed=[LATER], tried=TriedStage(0.0, failures=1))
    record = ledger.jobs.read(JOB)
    assert [one.rows_done for one in record.stages] == [3, 3, 0]
    assert [one.shards_live for one in record.stages] == [1, 0, 1]
    assert {settled(ledger, 0, stage=stage) for stage in range(3)} == {SplitUp(ShardId((0,)), 2)}
    last = claimed(ledger, epoch, ShardId((0, 0)), stage=2)
    assert (last.rows, last.slices) == (3, (Slice(0, 0, 3, 3, part=f"0.0-a{shard.token}"),))
    assert ledger.shards.commit(last.ref, Completion(3, 0, 7))
    rest = claimed(ledger, epoch, ShardId((0, 1)))
    later = PassedStage(Completion(7, 0, 0), None, Parts(0), "1", "1")
    assert ledger.shards.commit(rest.ref, Completion(7, 0, 0), passed=[later, later])
    assert ledger.jobs.read(JOB).is_settled
    assert [len(next(settled_shards(ledger, record, stage)).parts) for stage in range(3)] == [2, 2, 2]


def test_a_reader_sees_that_a_shard_has_got_more_parts_meanwhile(
    ledger: Ledger, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_part(ledger, running(ledger, epoch), 3)
    rest, read = claimed(ledger, epoch, ShardId((0, 1))), ledger.results.settled
    asked: list[list[ShardId]] = []

    def read_and_commit(job_id: str, stage: int, shard_ids: list[ShardId]) -> Any:
        found = read(job_id, stage, shard_ids)
        if not asked:
            commit_part(ledger, rest, 2)
        asked.append(shard_ids)
        return found

    monkeypatch.setattr(ledger.results, "settled", read_and_commit)
    (one,) = settled_shards(ledger, ledger.jobs.read(JOB), 0)
    assert not one.is_complete
    assert [part.shard_id for part in one.ready] == [(0, 0), (0, 1)]
    assert len(asked) > 1


def test_its_parts_follow_each_other_by_name(ledger: Ledger, epoch: int) -> None:
    shard = running(ledger, epoch)
    part, rest = shard.part_and_rest(4)
    assert ShardRest(rest).part_id == part.shard_id == (0, 0)
    again, last = rest.part_and_rest(2)
    assert again.ref == ShardRef(JOB, 0, ShardId((0, 1)), shard.token)
    assert (ShardRest(last).split_id, ShardRest(last).parts, ShardRest(last).part_id) == ((0,), 3, (0, 1))
    assert Shard.from_plan(JOB, 0, rest.shard_id, rest.plan(), state=rest.state, token=rest.token) == rest
    assert all(half.fitting_rows == 0 for half in rest.halves())
