"""What is kept of a stage that keeps state, in a stream whose results are deleted as soon as they may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchmill.jobs.shard import ShardId, part_of
from batchmill.jobs.stateful.step import state_folder, state_name
from batchmill.jobs.streams.kept import KeptShards
from batchmill.ledger.formats.encodings import FreedParts
from batchmill.ledger.formats.settlement import Settled
from support.stream_week import HOUR_S, JOB, Week

if TYPE_CHECKING:
    from pathlib import Path

    import redis

STEPS = 4


@pytest.mark.parametrize("groups", [1, 3])
def test_the_last_round_of_a_stage_that_keeps_state_stays_until_the_next_one_is_planned(
    redis_client: redis.Redis, prefix: str, tmp_path: Path, valkey_url: str, groups: int
) -> None:
    week = Week(redis_client, prefix, tmp_path, valkey_url, 60, keeps_state=True, groups=groups)
    for _ in range(STEPS):
        week.step()
        week.step(rows=0)  # all that was settled is old by then
        last = week.ledger.jobs.read(JOB).last
        assert last.rows_done + last.rows_dead == week.sent * groups + last.shards_planned
        first = last.shards_planned - groups
        assert KeptShards.parse(last.kept).first == first, "nothing else is kept"
        for number in range(first, last.shards_planned):
            (found,) = week.ledger.results.settled(JOB, 1, [ShardId((number,))])
            assert isinstance(found, Settled)
            assert week.workspace.blobs.exists(state_name(JOB, 1, part_of(found.shard_id, found.token)))
    states = week.workspace.blobs.list(state_folder(JOB))
    assert len(states) == 2 * groups, "what no attempt has deleted is swept, but for what a shard that runs begins with"


@pytest.mark.parametrize("groups", [1, 3])
def test_rows_that_end_shards_free_nothing_of_the_stage_before(
    redis_client: redis.Redis, prefix: str, tmp_path: Path, valkey_url: str, groups: int
) -> None:
    week = Week(redis_client, prefix, tmp_path, valkey_url, HOUR_S, keeps_state=True, groups=groups)
    for _ in range(STEPS):
        week.step()
        record = week.ledger.jobs.read(JOB)
        freed = FreedParts.parse(record.first.freed)
        assert (freed.next_shard, freed.next_rows) == (record.last.shards_planned, record.first.rows_out)
        assert (freed.rows, record.first.buffered) == (record.first.rows_out, 0)


def test_what_one_shard_of_a_round_has_settled_is_not_free_for_the_others(
    redis_client: redis.Redis, prefix: str, tmp_path: Path, valkey_url: str
) -> None:
    week = Week(redis_client, prefix, tmp_path, valkey_url, HOUR_S, keeps_state=True, groups=2)
    week.step()
    before = FreedParts.parse(week.ledger.jobs.read(JOB).first.freed)
    week.arrive()
    while not (shards := week.to_settle(1)):
        assert week.plan()
        for shard_id in week.to_settle(0):
            week.settle(0, shard_id)
    for shard_id, is_free in zip(shards, (False, True), strict=True):
        week.settle(1, shard_id)
        week.buffers.step(week.epoch)
        freed = FreedParts.parse(week.ledger.jobs.read(JOB).first.freed)
        assert (freed.next_rows > before.next_rows) == is_free
        assert freed.next_shard == before.next_shard + 2 * is_free
