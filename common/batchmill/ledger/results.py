"""Results in the ledger: what settled shards brought, and what of it rides inline."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.jobs.shard import ShardId, format_shard_id
from batchmill.ledger.formats.encodings import SourceRowBorders, parse_settled, write_settled
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.ledger.formats.encodings import FreedParts
    from batchmill.ledger.formats.record import StageRecord
    from batchmill.ledger.formats.settlement import Settled, SplitUp
    from batchmill.ledger.scripting.connection import Store


class ResultLedger:
    """What the commits of a job brought."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def settled(self, job_id: str, stage: int, shard_ids: Sequence[ShardId]) -> list[Settled | SplitUp | None]:
        """For each of these shards: how it was settled, or None when it was not."""
        if not shard_ids:
            return []
        with redis_errors():
            found = self._store.redis.hmget(
                self._keys.done(job_id, stage), [format_shard_id(shard_id) for shard_id in shard_ids]
            )
        return [
            entry and parse_settled(stage, shard_id, entry) for shard_id, entry in zip(shard_ids, found, strict=True)
        ]

    def inline_results(self, job_id: str, stage: int, shard_ids: Sequence[ShardId]) -> list[bytes | None]:
        """The results of these shards that ride in the ledger, as Arrow streams."""
        if not shard_ids:
            return []
        names = [format_shard_id(shard_id) for shard_id in shard_ids]
        with redis_errors():
            found: list[bytes | None] = self._store.redis.hmget(self._keys.inline_results(job_id, stage), names)
        return found

    def borders(self, job_id: str, stage: int, shard_ids: Sequence[ShardId]) -> list[SourceRowBorders | None]:
        """Where source rows begin among the results of these settled shards; None where it was not noted."""
        if not shard_ids:
            return []
        with redis_errors():
            found = self._store.redis.hmget(self._keys.borders(job_id, stage), list(map(format_shard_id, shard_ids)))
        return [None if text is None else SourceRowBorders.parse(text.decode()) for text in found]

    def note_borders(self, job_id: str, part: Settled, borders: SourceRowBorders) -> None:
        """Note where source rows begin among the results of a settled shard that were replaced."""
        with redis_errors():
            name = format_shard_id(part.shard_id)
            self._store.redis.hset(self._keys.borders(job_id, part.stage), name, borders.write())

    def are_incomplete(self, job_id: str, source_rows: Sequence[int]) -> list[bool]:
        """Whether rows that were made of these source rows have failed, before the stage that gathers them."""
        if not source_rows:
            return []
        with redis_errors():
            return [bool(one) for one in self._store.redis.smismember(self._keys.incomplete(job_id), list(source_rows))]

    def free_parts(
        self, job_id: str, stage: StageRecord, after: FreedParts, parts: Sequence[Settled], freed_at: int, epoch: int
    ) -> bool:
        """Note that the next stage has settled these parts of a stage, as the leader; False when it was noted already.

        after: how far the stage is freed with them. freed_at: settled shards of the next stage, as they were read.
        """
        answer = calls.free_parts(
            self._store,
            epoch=epoch,
            job_id=job_id,
            stage=stage.number,
            before=stage.freed,
            after=after.write(),
            nbytes=sum(part.nbytes for part in parts),
            freed_at=freed_at,
            keep=stage.spec.keep,
            parts=[part.shard_id for part in parts],
        )
        return answer is calls.FreePartsAnswer.OK

    def adopt_shard(
        self, job_id: str, stage: StageRecord, replay_id: str, adopted: Settled, dead: Mapping[str, int], epoch: int
    ) -> calls.AdoptShardAnswer:
        """Add what a replay has settled in a stage as a shard of its own, as the leader; once for each replay."""
        return calls.adopt_shard(
            self._store,
            stage=stage.number,
            epoch=epoch,
            job_id=job_id,
            replay_id=replay_id,
            shard_id=adopted.shard_id,
            shards_planned=stage.shards_planned,
            rows=adopted.rows,
            rows_dead=adopted.rows_dead,
            entry=write_settled(adopted),
            dead_by_type=[calls.AdoptedDeadRows(kind, rows) for kind, rows in dead.items()],
        )

    def has_adopted(self, job_id: str, stage: int, replay_id: str) -> bool:
        """Whether a stage has what a replay has settled in it, by `adopt_shard`."""
        with redis_errors():
            return bool(self._store.redis.hexists(self._keys.stage(job_id, stage), f"adopted {replay_id}"))

    def replace_part(
        self, job_id: str, before: Settled, after: Settled, dead_by_type: Mapping[str, int], epoch: int
    ) -> bool:
        """Replace a settled shard's entry, as the leader; False when it is another by now, or the leader is deposed.

        dead_by_type: change in the number of failed rows of each error type, negative for fewer.
        """
        answer = calls.replace_part(
            self._store,
            stage=before.stage,
            epoch=epoch,
            job_id=job_id,
            shard_id=before.shard_id,
            before=write_settled(before),
            after=write_settled(after),
            more_rows=after.rows - before.rows,
            fewer_dead=before.rows_dead - after.rows_dead,
            dead_by_type=[calls.DeadRowsChange(kind, more) for kind, more in dead_by_type.items()],
        )
        return answer is calls.ReplacePartAnswer.OK
