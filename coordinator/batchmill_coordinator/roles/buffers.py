"""The buffer keeper: deletes results between two stages once the later one has settled all that was made of them.

1. A step reads from an index the stages with parts that the next stage may have settled since they were looked at.
2. The rows of a stage are the results of the one before in their order, or the source rows of those if it gathers, and
   its shards are consecutive rows. So what the next stage has settled from its first shard on, without a gap, says
   which parts nobody reads any more.
3. The ledger notes how far the parts are freed and that their bytes are no longer in the buffer. The blobs are deleted
   a while later (`FreedResults`), for a ledger that is rolled back may need them again.
4. What is left when a job has completed goes likewise; of a job that ended otherwise it stays until the job is deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.ledger.formats.encodings import FreedParts
from batchmill.stage_results import settled_shards
from batchmill_coordinator.results.splitting.source_rows import source_rows_of
from batchmill_coordinator.roles.job_guard import JobGuard

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.record import JobStage
    from batchmill.ledger.formats.settlement import Settled
    from batchmill.stage_results import SettledShard
    from batchmill_coordinator.results.freed_results import FreedResults

MAX_STAGES_READ = 64  # in a step
MAX_PARTS = 256  # of a stage that a step frees


class BufferKeeper:
    """Frees the parts between stages, as the leader."""

    name = "buffer-keeper"
    wakes_on = frozenset({"committed", "settled"})
    period_s = 1.0

    def __init__(self, ledger: Ledger, freed: FreedResults) -> None:
        self._ledger = ledger
        self._freed = freed
        self._guard = JobGuard(ledger, "results between its stages could not be deleted")

    def step(self, epoch: int) -> None:
        """Free what was settled, and delete what was freed a while ago."""
        for one in self._ledger.jobs.read_stages(self._ledger.index.to_free(MAX_STAGES_READ)):
            if not self._guard.is_set_aside(one.job.id):
                with self._guard.over(one.job.id):
                    self._free(one, epoch)
        for freed in self._freed.take_due():
            with self._guard.over(freed.job_id):
                self._freed.delete(freed)
        for job_id in self._freed.completed_jobs():
            if not self._guard.is_set_aside(job_id):
                with self._guard.over(job_id):
                    self._freed.delete_between_stages(job_id)

    def _free(self, one: JobStage, epoch: int) -> None:
        following = one.job.stages[one.stage.number + 1]
        before = FreedParts.parse(one.stage.freed)
        next_shard, next_rows = self._settled(one.job, following.number, before)
        after, parts = self._parts_before(one, before._replace(next_shard=next_shard, next_rows=next_rows))
        freed_at = following.shards_done if len(parts) < MAX_PARTS else following.shards_done - 1
        is_freed = self._ledger.results.free_parts(one.job.id, one.stage, after, parts, freed_at, epoch)
        if is_freed and parts and not one.spec.keep:
            self._freed.add_parts(one, after, parts)

    def _settled(self, job: JobRecord, stage: int, before: FreedParts) -> tuple[int, int]:
        """Return the first planned shard of a stage that is not settled, and the rows of those before it.

        The shards of a round have the same rows, which are settled with the last of them.
        """
        number, rows, spec = before.next_shard, before.next_rows, job.stages[stage].spec
        own = int(spec.keeps_state)  # rows of a shard that are none of the stage before
        for shard in settled_shards(self._ledger, job, stage, number):
            if not shard.is_complete or any(part.plan for part in shard.parts):
                break
            if (shard.number + 1) % spec.shards_of_round == 0:
                number, rows = shard.number + 1, rows + sum(part.rows + part.rows_dead for part in shard.parts) - own
        return number, rows

    def _parts_before(self, one: JobStage, freed: FreedParts) -> tuple[FreedParts, list[Settled]]:
        """Return the parts of a stage whose results are among the `next_rows`, and how far it is freed with them."""
        parts: list[Settled] = []
        for shard in settled_shards(self._ledger, one.job, one.stage.number, freed.shard):
            for some, inputs in self._freed_together(one, shard, freed.parts):
                rows = freed.rows + inputs
                if rows > freed.next_rows or len(parts) >= MAX_PARTS:
                    return freed, parts
                parts += [part for part in some if part.results and part.nbytes]  # others were not stored
                freed = freed._replace(rows=rows, parts=freed.parts + len(some))
            if not shard.is_complete:
                break
            freed = freed._replace(shard=shard.number + 1, parts=0)
        return freed, parts

    def _freed_together(
        self, one: JobStage, shard: SettledShard, start: int
    ) -> Iterator[tuple[Sequence[Settled], int]]:
        """Yield parts of a shard from number `start` on, with how many rows of the next stage their results are.

        If that gathers, all parts of a shard: source rows may reach from one to the next.
        """
        if not one.job.stages[one.stage.number + 1].spec.gathers:
            yield from (((part,), part.results) for part in shard.ready[start:])
        elif shard.is_complete:
            yield shard.parts, source_rows_of(self._ledger, one.job.id, shard)
