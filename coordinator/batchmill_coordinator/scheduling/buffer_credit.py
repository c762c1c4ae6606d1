"""How much a stage may make before the next one has settled what there is. Pure.

Bytes are counted exactly where results are committed and freed; only what runs now is estimated: from the mean of a row
so far, and before anything is committed from the stage's input. All numbers are integers, so that nothing is left over
when all is done. `index_buffer` in `_indexes.lua` counts alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from batchmill.ledger.formats.encodings import StageCursor

if TYPE_CHECKING:
    from batchmill.jobs.shard import ShardId
    from batchmill.ledger.formats.record import JobStage, StageRecord

GUESSED_GROWTH = 8
"""Bytes of results for a byte of input, until the first are committed: more than most operators make of text."""

MAX_SHARES = 16
"""Shards at most that a buffer is cut for: with more slots, a shard has no fewer rows for that."""


class ShardLimits(NamedTuple):
    """How large the next shard of a stage may be. None: no limit."""

    rows: int | None = None
    nbytes: int | None = None  # of input


def within_limits(one: JobStage, shards: list[ShardId]) -> list[ShardId]:
    """Return which of these shards may be queued: by the buffer, and by how many of the stage may be under way."""
    most, allowed = one.spec.max_at_once, within_buffer(one, shards)
    return allowed if most is None else allowed[: max(most - one.stage.shards_in_flight, 0)]


def within_buffer(one: JobStage, shards: list[ShardId]) -> list[ShardId]:
    """Return which of these shards of a stage, in the order in which they would be queued, its buffer has room for.

    1. As many as fit beside what is buffered and what shards in flight are expected to make.
    2. If nothing is buffered or in flight, one, however large its results may be.
    3. The shard that the next stage waits for, if that has nothing to do: the buffer may be full of results behind it.
       A stage that runs with this one waits for any.

    Where stages run with this one, their buffers must have room, too: its shards may fill any of them.
    """
    for made_in in one.together:
        shards = _within(one, made_in, shards)
    return shards


def _within(one: JobStage, made_in: StageRecord, shards: list[ShardId]) -> list[ShardId]:
    stage, limit = one.stage, made_in.buffer_bytes
    if limit is None or not shards:
        return shards
    per_shard = expected_bytes(stage, made_in)
    used = made_in.buffered + stage.shards_in_flight * per_shard
    room = len(shards) if not per_shard else max((limit - used) // per_shard, 0)
    if room or (not made_in.buffered and not stage.shards_in_flight):
        return shards[: max(room, 1)]
    following = one.job.stages[made_in.number + 1]
    if following.shards_live:
        return []
    return shards[:1] if following.joins else _awaited(following, shards)


def expected_bytes(stage: StageRecord, made_in: StageRecord) -> int:
    """Return how many bytes of results of a stage, `made_in`, a live shard of `stage` is expected to make."""
    settled = stage.rows_done + stage.rows_dead
    if not settled:
        return GUESSED_GROWTH * _ceil(stage.bytes_in, stage.shards_planned)
    return _ceil(made_in.bytes_out, settled) * _ceil(stage.rows_planned - settled, stage.shards_live)


def shard_limits(one: JobStage, shards_at_once: int) -> ShardLimits:
    """Return what the next shard of a stage may have, so that its buffer has room for several at once.

    shards_at_once: that the stage's pool takes.
    """
    at_once, buffers = min(max(shards_at_once, 1), MAX_SHARES), [made for made in one.together if made.buffer_bytes]
    if not buffers:
        return ShardLimits()
    shares = [max((made_in.buffer_bytes or 0) // at_once, 1) for made_in in buffers]
    settled = one.stage.rows_done + one.stage.rows_dead
    if not settled:
        return ShardLimits(nbytes=max(min(shares) // GUESSED_GROWTH, 1))
    rows = [share // max(_ceil(made.bytes_out, settled), 1) for share, made in zip(shares, buffers, strict=True)]
    return ShardLimits(rows=max(min(rows), 1))


def _ceil(amount: int, parts: int) -> int:
    return -(-amount // max(parts, 1))


def _awaited(following: StageRecord, shards: list[ShardId]) -> list[ShardId]:
    number = StageCursor.parse(following.cursor).shard
    return [shard_id for shard_id in shards if shard_id[0] == number][:1]
