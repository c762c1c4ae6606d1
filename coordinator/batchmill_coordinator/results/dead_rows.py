"""The dead rows of a job, shard by shard, as they lie in the blob store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.dead_letters import DeadRows, dead_letters_name
from batchmill.shard import ShardId, ShardRef
from batchmill_coordinator.results.outputs import settled_shards

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from batchmill.dead_letters import DeadLetter
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.settlement import Settled
    from batchmill.storage.blobs import BlobStore

FIRST = ShardId((0,))


class DeadRowStore:
    """Reads, replaces and purges the dead rows of settled shards."""

    def __init__(self, ledger: Ledger, blobs: BlobStore) -> None:
        self._ledger = ledger
        self._blobs = blobs

    def shards(self, record: JobRecord, start: ShardId = FIRST) -> Iterator[Settled]:
        """The settled shards that gave up on rows, in input order from `start` on."""
        if record.rows_dead:
            for shard in settled_shards(self._ledger, record, start[0]):
                yield from (part for part in shard.parts if part.rows_dead and part.shard_id >= start)

    def read(self, job_id: str, shard: Settled) -> DeadRows:
        """The dead rows of a shard, without those that were purged. Raises `NotFound` or `StorageError`."""
        return DeadRows.from_table(self._blobs.read_table(_name(job_id, shard)))

    def write(self, job_id: str, shard: Settled, dead: DeadRows) -> None:
        """Store the dead rows of a shard in the place of what is there. Raises `StorageError`."""
        self._blobs.put_table(_name(job_id, shard), dead.table())

    def delete(self, job_id: str, shard: Settled) -> None:
        """Delete what is stored for a shard; nothing there is fine."""
        self._blobs.delete(_name(job_id, shard))

    def purge(self, record: JobRecord, choice: Choice) -> int:
        """Delete the chosen letters and their rows; returns how many. The job still counts the rows as dead."""
        purged = 0
        for shard in self.shards(record):
            dead = self.read(record.id, shard)
            going = choice.among(dead)
            if going:
                self.write(record.id, shard, dead.purge(going))
                purged += len(going)
        return purged


class Choice:
    """Some of a job's dead rows: those with these indices, or those that died of this error; neither: all."""

    def __init__(self, indices: Collection[int] | None, error_type: str | None) -> None:
        self.indices = None if indices is None else frozenset(indices)
        self._error_type = error_type

    def among(self, dead: DeadRows) -> set[int]:
        """The indices of the chosen ones."""
        return {letter.index for letter in dead.letters if self._takes(letter)}

    def _takes(self, letter: DeadLetter) -> bool:
        if self.indices is not None and letter.index not in self.indices:
            return False
        return self._error_type in (None, letter.error_type)


def _name(job_id: str, shard: Settled) -> str:
    return dead_letters_name(ShardRef(job_id, 0, shard.shard_id, shard.token))
