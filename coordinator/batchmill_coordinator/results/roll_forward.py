"""Brings a ledger that was rolled back up to the parts that an output folder has.

A replay, or the union of the schemas of an output, replaces parts in the folder of a user and deletes the old ones. A
ledger that is rolled back then, to a stale replica for example, names parts that are gone. The folder's manifest has
what replaced them, and the blob store the failed rows of those, from which the ledger's entries are made again.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.errors import NotFound
from batchmill.jobs.dead_letters import DeadRows
from batchmill.stage_results import settled_shards

if TYPE_CHECKING:
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.settlement import Settled
    from batchmill.sinks import ManifestPart, Publisher
    from batchmill_coordinator.results.dead_rows import DeadRowStore

log = logging.getLogger(__name__)

_NO_DEAD_ROWS = DeadRows((), pa.table({}))


class RollForward:
    """Replaces the ledger's entries of parts that are gone by the published ones, as the leader."""

    def __init__(self, ledger: Ledger, dead_rows: DeadRowStore) -> None:
        self._ledger = ledger
        self._dead_rows = dead_rows

    def apply(self, record: JobRecord, stage: int, publisher: Publisher, epoch: int) -> int:
        """Replace the entries of a stage that name parts which are gone; returns how many. Doing it again is fine.

        Raises `StorageError`.
        """
        if publisher.published() is None:
            return 0
        shards = [
            part
            for shard in settled_shards(self._ledger, record, stage)
            for part in shard.parts
            if part.results and not part.plan
        ]
        named = [publisher.part(part.shard_id, part.token, part.results, part.nbytes) for part in shards]
        instead = publisher.published_instead(named)
        replaced = [
            self._replace(record, shard, instead[shard.shard_id], epoch)
            for shard in shards
            if shard.shard_id in instead
        ]
        return sum(replaced)

    def _replace(self, record: JobRecord, before: Settled, published: ManifestPart, epoch: int) -> bool:
        job_id = record.id
        after = replace(before, token=published.token, nbytes=published.bytes)
        old, new = self._dead(job_id, before), self._dead(job_id, after)
        rows_dead = len(new.indices)
        after = replace(after, rows=before.rows + before.rows_dead - rows_dead, rows_dead=rows_dead)
        if after.expanded_to is not None or record.spec.has_lineage:  # a replay adds results of rows of earlier stages
            after = replace(after, expanded_to=published.rows)
        if after.results != published.rows:
            log.error("part %s of %s does not fit its shard; the ledger stays as it is", published.name, job_id)
            return False
        by_type = Counter(letter.error_type for letter in new.letters)
        by_type.subtract(letter.error_type for letter in old.letters)
        more_dead = {kind: number for kind, number in by_type.items() if number}
        log.warning("the ledger was rolled back behind part %s of %s; it takes the part again", published.name, job_id)
        return self._ledger.results.replace_part(job_id, before, after, more_dead, epoch)

    def _dead(self, job_id: str, shard: Settled) -> DeadRows:
        try:
            return self._dead_rows.read(job_id, shard)
        except NotFound:
            return _NO_DEAD_ROWS
