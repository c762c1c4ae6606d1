"""What is kept of a stage that keeps state, in a stream whose results are deleted as soon as they may be."""

from __future__ import annotations

from typing import TYPE_CHECKING

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


def test_the_last_shard_of_a_stage_that_keeps_state_stays_until_the_next_one_is_planned(
    redis_client: redis.Redis, prefix: str, tmp_path: Path, valkey_url: str
) -> None:
    week = Week(redis_client, prefix, tmp_path, valkey_url, 60, keeps_state=True)
    for _ in range(STEPS):
        week.step()
        week.step(rows=0)  # all that was settled is old by then
        last = week.ledger.jobs.read(JOB).last
        assert last.rows_done + last.rows_dead == week.sent + last.shards_planned
        assert KeptShards.parse(last.kept).first == last.shards_planned - 1, "nothing else is kept"
        (found,) = week.ledger.results.settled(JOB, 1, [ShardId((last.shards_planned - 1,))])
        assert isinstance(found, Settled)
        assert week.workspace.blobs.exists(state_name(JOB, 1, part_of(found.shard_id, found.token)))
    states = week.workspace.blobs.list(state_folder(JOB))
    assert len(states) == 2, "what no attempt has deleted is swept, but for what a shard that runs may begin with"


def test_rows_that_end_shards_free_nothing_of_the_stage_before(
    redis_client: redis.Redis, prefix: str, tmp_path: Path, valkey_url: str
) -> None:
    week = Week(redis_client, prefix, tmp_path, valkey_url, HOUR_S, keeps_state=True)
    for _ in range(STEPS):
        week.step()
        record = week.ledger.jobs.read(JOB)
        freed = FreedParts.parse(record.first.freed)
        assert (freed.next_shard, freed.next_rows) == (record.last.shards_planned, record.first.rows_out)
        assert (freed.rows, record.first.buffered) == (record.first.rows_out, 0)
