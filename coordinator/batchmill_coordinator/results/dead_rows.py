"""The failed rows of a stage, shard by shard, as they are stored in the blob store."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from batchmill.jobs.dead_letters import DeadRows, dead_letters_name
from batchmill.jobs.shard import ShardId
from batchmill.jobs.stages import stage_called, stages_of
from batchmill.stage_results import settled_shards

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from batchmill.jobs.dead_letters import DeadLetter
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.settlement import Settled
    from batchmill.storage.blobs import BlobStore

FIRST = ShardId((0,))


class DeadRowStore:
    """Reads, replaces and purges the failed rows of settled shards."""

    def __init__(self, ledger: Ledger, blobs: BlobStore) -> None:
        self._ledger = ledger
        self._blobs = blobs

    def shards(self, record: JobRecord, stage: int, start: ShardId = FIRST) -> Iterator[Settled]:
        """Yield the settled shards of a stage that have failed rows, in input order from `start` on."""
        if record.stages[stage].rows_dead:
            for shard in settled_shards(self._ledger, record, stage, start[0]):
                yield from (part for part in shard.parts if part.rows_dead and part.shard_id >= start)

    def read(self, job_id: str, shard: Settled) -> DeadRows:
        """Read the failed rows of a shard, without those that were purged. Raises `NotFound` or `StorageError`."""
        table = self._blobs.read_table(dead_letters_name(shard.ref(job_id)))
        return DeadRows.from_table(table).counted_from_input(shard.first_row)

    def write(self, job_id: str, shard: Settled, dead: DeadRows) -> None:
        """Store the failed rows of a shard in the place of what is there. Raises `StorageError`."""
        self._blobs.put_table(dead_letters_name(shard.ref(job_id)), dead.table())

    def delete(self, job_id: str, *shards: Settled) -> None:
        """Delete what is stored for shards; nothing there is fine."""
        self._blobs.delete(*(dead_letters_name(shard.ref(job_id)) for shard in shards))

    def purge(self, record: JobRecord, chosen: DeadRowFilter) -> int:
        """Delete the chosen dead letters and their rows; returns how many. The job still counts the rows as failed.

        Raises `InvalidRequest` if the job has no such stage.
        """
        stages = stages_of(record.spec) if chosen.stage is None else [stage_called(record.spec, chosen.stage)]
        return sum(self._purge(record, stage, chosen) for stage in stages)

    def _purge(self, record: JobRecord, stage: int, chosen: DeadRowFilter) -> int:
        purged = 0
        for shard in self.shards(record, stage):
            dead = self.read(record.id, shard)
            going = chosen.among(dead)
            if going:
                self.write(record.id, shard, dead.purge(going))
                for token in range(1, shard.token):  # that replays have left
                    self.delete(record.id, replace(shard, token=token))
                purged += len(going)
        return purged


class DeadRowFilter:
    """Chooses failed rows of a job: those with these indices, of this type of error, in this stage; None: of all."""

    def __init__(self, indices: Collection[int] | None, error_type: str | None, stage: str | None = None) -> None:
        self.stage = stage
        self.indices = None if indices is None else frozenset(indices)
        self._error_type = error_type

    def among(self, dead: DeadRows) -> set[int]:
        """Return the indices of the rows that it chooses."""
        return {letter.index for letter in dead.letters if self._takes(letter)}

    def _takes(self, letter: DeadLetter) -> bool:
        if self.indices is not None and letter.index not in self.indices:
            return False
        return self._error_type in (None, letter.error_type)
