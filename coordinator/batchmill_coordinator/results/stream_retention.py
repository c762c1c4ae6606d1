"""Deletes the results of streams that are old, or too many, and what the ledger has of them.

1. Each step looks how far each stage is settled from its first shard on, and marks that moment. So the age of a shard
   is known without an entry of its own for it.
2. What is older than the job keeps, more bytes than it keeps, or more than `MAX_SHARDS`, is not read any more from this
   step on, and deleted at the next: a reader that has begun with a part can end with it. Results between stages are
   deleted when the next stage has settled them, as in any job; here only what is left of their shards.
3. A step that is interrupted is repeated: blobs go first, then the entries that name them.
4. Blobs that attempts have left which lost their shard are deleted once in a while, by the numbers in their names.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from batchmill.jobs.shard import ShardId, checkpoint_folder, is_of_shard_before
from batchmill.jobs.stateful.step import state_folder
from batchmill.jobs.streams.kept import KeptShards
from batchmill.jobs.streams.rolls import Rolls
from batchmill.ledger.formats.encodings import FreedParts
from batchmill.ledger.formats.settlement import Settled, SplitUp
from batchmill.stage_results import settled_shards

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.record import StageRecord
    from batchmill.workspace import Workspace
    from batchmill_coordinator.results.dead_rows import DeadRowStore

MAX_SHARDS_READ = 5000
MAX_SHARDS_DELETED = 1000  # of a stage in a step
SWEEP_MS = 600_000


@dataclass(frozen=True, slots=True)
class _Limits:
    keep_s: float
    nbytes: int


class StreamRetention:
    """Keeps the results of streams within their limits, as the leader."""

    def __init__(self, ledger: Ledger, workspace: Workspace, dead_rows: DeadRowStore) -> None:
        self._ledger = ledger
        self._workspace = workspace
        self._dead_rows = dead_rows
        self._swept_at_ms: dict[str, int] = {}

    def apply(self, record: JobRecord, now_ms: int, epoch: int) -> None:
        """Do a step for every stage of a job over a stream. Raises `StorageError`; then it is repeated."""
        source = record.spec.stream
        if source is None:
            return
        limits = _Limits(source.keep_results_s, source.keep_results_bytes)
        for stage in record.stages:
            before = KeptShards.parse(stage.kept)
            names = self._delete(record, stage, before)
            after = self._settled(record, stage, before._replace(compacted=before.first))
            after = self._expired(record, stage, after.marked(now_ms, limits.keep_s), now_ms, limits)
            if after != before:
                freed = _freed_with(record, stage, after)
                self._ledger.streams.compact(record.id, stage, after.write(), freed, names, epoch)
        self._sweep(record, now_ms)

    def forget_all_but(self, job_ids: set[str]) -> None:
        """Drop what is kept in memory of other jobs."""
        self._swept_at_ms = {job_id: at for job_id, at in self._swept_at_ms.items() if job_id in job_ids}

    def _delete(self, record: JobRecord, stage: StageRecord, kept: KeptShards) -> list[ShardId]:
        """Delete the blobs of the shards that nobody reads any more; return the names of their entries."""
        numbers = range(kept.compacted, kept.first)
        entries = list(self._entries(record, stage, [ShardId((number,)) for number in numbers]))
        settled = [one for _, one in entries if isinstance(one, Settled)]
        store = self._workspace.open_results(record.id, record.spec, stage.number)
        store.delete_all((one.shard_id, one.token) for one in settled if one.results)
        self._dead_rows.delete(record.id, *(one for one in settled if one.rows_dead))
        return [shard_id for shard_id, _ in entries]

    def _entries(
        self, record: JobRecord, stage: StageRecord, shard_ids: Sequence[ShardId]
    ) -> Iterator[tuple[ShardId, Settled | SplitUp]]:
        """Yield the entries of planned shards, and of what they were split into."""
        while shard_ids:
            found = self._ledger.results.settled(record.id, stage.number, shard_ids)
            there = [(shard_id, one) for shard_id, one in zip(shard_ids, found, strict=True) if one is not None]
            yield from there
            shard_ids = [child for _, one in there if isinstance(one, SplitUp) for child in one.children()]

    def _settled(self, record: JobRecord, stage: StageRecord, kept: KeptShards) -> KeptShards:
        """Look how far the stage is settled by now, without a gap."""
        settled, nbytes = kept.settled, kept.nbytes
        for shard in settled_shards(self._ledger, record, stage.number, kept.settled):
            if not shard.is_complete or shard.number >= kept.settled + MAX_SHARDS_READ:
                break
            settled, nbytes = shard.number + 1, nbytes + sum(part.nbytes for part in shard.parts)
        return kept._replace(settled=settled, nbytes=nbytes)

    def _expired(
        self, record: JobRecord, stage: StageRecord, kept: KeptShards, now_ms: int, limits: _Limits
    ) -> KeptShards:
        """Return from which shard on results are kept from now on."""
        until = kept.expired(now_ms, limits.keep_s)
        most = min(kept.settled, kept.first + MAX_SHARDS_DELETED, _read_by_others(record, stage))
        first, nbytes = kept.first, kept.nbytes
        if until <= first and nbytes <= limits.nbytes:
            return kept
        for shard in settled_shards(self._ledger, record, stage.number, first):
            if shard.number >= most or (shard.number >= until and nbytes <= limits.nbytes):
                break
            first, nbytes = shard.number + 1, nbytes - sum(part.nbytes for part in shard.parts)
        return kept._replace(first=first, nbytes=nbytes)

    def _sweep(self, record: JobRecord, now_ms: int) -> None:
        """Delete what attempts have left that lost their shard."""
        if now_ms - self._swept_at_ms.setdefault(record.id, now_ms) < SWEEP_MS:
            return
        self._swept_at_ms[record.id] = now_ms
        blobs = self._workspace.blobs
        for stage in record.stages:
            gone = KeptShards.parse(stage.kept).compacted
            folders = (checkpoint_folder(record.id), f"jobs/{record.id}/results", f"jobs/{record.id}/dead")
            names = chain.from_iterable(blobs.list(f"{folder}/{stage.number}") for folder in folders)
            old = [one for one in names if is_of_shard_before(one, gone)]
            states = blobs.list(f"{state_folder(record.id)}/{stage.number}") if stage.spec.keeps_state else []
            # a shard that runs begins with the state of the round before
            old += [one for one in states if is_of_shard_before(one, gone - stage.spec.shards_of_round)]
            blobs.delete(*old)


def _read_by_others(record: JobRecord, stage: StageRecord) -> int:
    """Return from which shard on the next stage may still read results, or `BufferKeeper` has to count them."""
    until = stage.shards_planned
    if stage.spec.keeps_state:
        until -= stage.spec.shards_of_round  # the next round begins with the states of the last one
    if stage.number > 0:
        until = min(until, FreedParts.parse(record.stages[stage.number - 1].freed).next_shard)
    if stage.number == record.last.number:
        return until if record.spec.output is None else min(until, Rolls.parse(stage.rolled).shard)
    following, freed = record.stages[stage.number + 1], FreedParts.parse(stage.freed)
    if following.joins and not stage.buffered:  # nothing was stored between the two, and nobody counts it
        return min(until, KeptShards.parse(following.kept).settled)
    return min(until, freed.shard)


def _freed_with(record: JobRecord, stage: StageRecord, kept: KeptShards) -> str:
    """Return how far the parts of a stage are freed once older shards are deleted.

    Where nobody has counted them, the count begins anew with the first shard that is left, of both stages.
    """
    freed = FreedParts.parse(stage.freed)
    is_counted = stage.number == record.last.number or freed.shard >= kept.first
    return stage.freed if is_counted else FreedParts(shard=kept.first, next_shard=kept.first).write()
