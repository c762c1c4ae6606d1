"""How much a stage may make before the next one has settled what there is. Pure.

Bytes are counted exactly where results are committed and freed; only what runs now is estimated, from the mean of a
shard so far. All numbers are integers, so that nothing is left over when all is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.ledger.formats.encodings import StageCursor

if TYPE_CHECKING:
    from batchmill.jobs.shard import ShardId
    from batchmill.ledger.formats.record import JobStage, StageRecord


def within_limits(one: JobStage, shards: list[ShardId]) -> list[ShardId]:
    """Return which of these shards may be queued: by the buffer, and by how many of the stage may be under way."""
    most, allowed = one.spec.max_at_once, within_buffer(one, shards)
    return allowed if most is None else allowed[: max(most - one.stage.shards_in_flight, 0)]


def within_buffer(one: JobStage, shards: list[ShardId]) -> list[ShardId]:
    """Return which of these shards of a stage, in the order in which they would be queued, its buffer has room for.

    1. As many as fit beside what is buffered and what shards in flight are expected to make.
    2. If nothing is buffered or in flight, one, however large its results may be.
    3. The shard that the next stage waits for, if that has nothing to do: the buffer may be full of results behind it.
    """
    stage, limit = one.stage, one.stage.buffer_bytes
    if limit is None or not shards:
        return shards
    per_shard = stage.bytes_out // max(stage.shards_done, 1)
    used = stage.buffered + stage.shards_in_flight * per_shard
    room = len(shards) if not per_shard else max((limit - used) // per_shard, 0)
    if room or (not stage.buffered and not stage.shards_in_flight):
        return shards[: max(room, 1)]
    following = one.job.stages[stage.number + 1]
    return _awaited(following, shards) if following.shards_live == 0 else []


def _awaited(following: StageRecord, shards: list[ShardId]) -> list[ShardId]:
    number = StageCursor.parse(following.cursor).shard
    return [shard_id for shard_id in shards if shard_id[0] == number][:1]
