"""The results of a job, and the output that was published of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

    from batchmill.jobs.shard import ShardId
    from batchmill.ledger import JobRecord
    from batchmill.sinks import Publisher, ResultStore


@dataclass(frozen=True, slots=True)
class JobResults:
    """A job with its results, and the output that was published of them, if it has one."""

    record: JobRecord
    stage: int  # whose results they are
    results: ResultStore
    publisher: Publisher | None

    @property
    def is_folder(self) -> bool:
        """Whether its parts are in the folder of its user, where only those of the manifest may be."""
        output = self.record.spec.output
        return output is not None and not output.is_file

    def write(self, shard_id: ShardId, token: int, table: pa.Table) -> int:
        """Write results that are to replace a shard's; returns their stored size in bytes."""
        write = self.results.write if self.publisher is None else self.publisher.replace_part
        return write(shard_id, token, table)
