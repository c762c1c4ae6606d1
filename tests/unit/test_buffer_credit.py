"""How much a stage may make before the next one has settled it."""

from __future__ import annotations

import pytest

from batchmill.jobs.job import JobForm, StageForm
from batchmill.jobs.shard import ShardId
from batchmill.ledger import JobRecord
from batchmill.ledger.formats.record import JobStage
from batchmill_coordinator.scheduling.buffer_credit import (
    GUESSED_GROWTH,
    ShardLimits,
    expected_bytes,
    shard_limits,
    within_buffer,
)

MB = 1 << 20
SPEC = JobForm(stages=[StageForm(operator="echo", buffer_bytes=4 * MB), StageForm(operator="echo", name="last")]).spec()
SHARDS = [ShardId((number,)) for number in range(10)]


def chain(next_live: int = 1, **first: int) -> JobStage:
    """The first stage of a chain with a buffer of 4 MiB. next_live: shards of the next stage that are not settled."""
    stage = {name.encode(): str(value).encode() for name, value in first.items()} | {b"buffer_bytes": b"%d" % (4 * MB)}
    fields = {b"spec": SPEC.model_dump_json().encode(), b"state": b"running"}
    job = JobRecord.from_hashes("job-1", fields, [stage, {b"shards_live": b"%d" % next_live}])
    return JobStage(job, job.first)


def test_a_stage_that_has_made_nothing_yet_is_expected_to_make_a_multiple_of_its_input() -> None:
    one = chain(bytes_in=10 * MB, shards_planned=40, shards_live=40)
    assert expected_bytes(one.stage, one.stage) == GUESSED_GROWTH * MB // 4
    assert len(within_buffer(one, SHARDS)) == 2


def test_larger_shards_than_those_before_are_expected_to_make_more() -> None:
    small = chain(rows_done=10, rows_planned=20, shards_live=10, shards_done=10, bytes_out=MB)
    large = chain(rows_done=10, rows_planned=10 + 80, shards_live=10, shards_done=10, bytes_out=MB)
    assert expected_bytes(large.stage, large.stage) == 8 * expected_bytes(small.stage, small.stage)
    assert (len(within_buffer(small, SHARDS)), len(within_buffer(large, SHARDS))) == (10, 3)


def test_a_stage_whose_rows_have_all_been_filtered_is_not_held_back() -> None:
    one = chain(rows_done=10, rows_filtered=10, rows_planned=20, shards_live=10)
    assert within_buffer(one, SHARDS) == SHARDS


def test_a_full_buffer_takes_only_the_shard_that_the_next_stage_waits_for() -> None:
    full = {"rows_done": 10, "rows_planned": 90, "shards_live": 10, "bytes_out": 5 * MB}
    assert within_buffer(chain(**full), SHARDS) == []
    assert within_buffer(chain(next_live=0, **full), SHARDS) == [ShardId((0,))]


@pytest.mark.parametrize(("at_once", "share"), [(0, 4 * MB), (4, MB), (1000, MB // 4)])
def test_shards_are_so_small_that_the_buffer_has_room_for_several(at_once: int, share: int) -> None:
    unmeasured = chain(bytes_in=10 * MB, shards_planned=40)
    assert shard_limits(unmeasured, at_once) == ShardLimits(nbytes=share // GUESSED_GROWTH)
    measured = chain(rows_done=1024, bytes_out=MB, rows_planned=2048)
    assert shard_limits(measured, at_once) == ShardLimits(rows=share // 1024)
    huge = chain(rows_done=1, bytes_out=100 * MB, rows_planned=2)
    assert shard_limits(huge, at_once) == ShardLimits(rows=1)
    assert shard_limits(JobStage(measured.job, measured.job.last), at_once) == ShardLimits()


def fused(last_live: int = 1, **second: int) -> JobStage:
    """The first stage of a chain of three, of which the second runs with it, and has a buffer of 1 MiB."""
    spec = JobForm(stages=[StageForm(operator="echo", name=name) for name in "abc"]).spec()
    first = {"rows_done": 10, "rows_planned": 90, "shards_live": 8, "buffer_bytes": 4 * MB}
    hashes = [first, {"joins": 1, "buffer_bytes": MB, **second}, {"shards_live": last_live}]
    stages = [{name.encode(): b"%d" % value for name, value in one.items()} for one in hashes]
    job = JobRecord.from_hashes("job-1", {b"spec": spec.model_dump_json().encode(), b"state": b"running"}, stages)
    return JobStage(job, job.first)


def test_the_buffer_behind_stages_that_run_together_holds_the_first_of_them_back() -> None:
    assert within_buffer(fused(), SHARDS) == SHARDS
    assert len(within_buffer(fused(bytes_out=200_000, shards_done=1), SHARDS)) == 4
    assert within_buffer(fused(bytes_out=2 * MB, shards_done=1), SHARDS) == []
    assert within_buffer(fused(last_live=0, bytes_out=2 * MB, shards_done=1), SHARDS) == [ShardId((0,))]
    assert shard_limits(fused(bytes_out=MB, shards_done=1), 4) == ShardLimits(rows=MB // 4 // (-(-MB // 10)))
