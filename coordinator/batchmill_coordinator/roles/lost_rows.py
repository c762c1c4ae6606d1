"""Settles a row that ended its worker process again and again, alone in its shard, as a dead letter.

1. The lost attempt ends; the shard waits, for longer than the next steps take.
2. It is queued and claimed here, in the place of a worker, so that nobody else runs it.
3. The row is read and its dead letter stored; the commit settles the shard, unless a straggler of it was done first.

Cut short anywhere, the lease taken here expires, and the recoverer begins again.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from batchmill.columns import rows_of
from batchmill.columns.lineage import path_at, without_lineage
from batchmill.errors import StaleToken
from batchmill.jobs.completion import Completion, DeadLimit
from batchmill.jobs.dead_letters import WORKER_LOST, DeadLetter, DeadRows, count_by_type, dead_letters_name, json_value
from batchmill.ledger.formats.encodings import write_holder
from batchmill.ledger.scripting.calls import ExpireAttemptAnswer

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.clock import Clock
    from batchmill.jobs.shard import Shard, ShardRef
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.record import StageRecord
    from batchmill.sources.base import Source
    from batchmill.storage.blobs import BlobStore

LEASE_MS = 30_000


class LostRowSettler:
    """Settles shards of one row by the steps of a worker: claim, store, commit."""

    def __init__(
        self, ledger: Ledger, blobs: BlobStore, open_source: Callable[[JobRecord, int], Source], clock: Clock
    ) -> None:
        self._ledger = ledger
        self._blobs = blobs
        self._open_source = open_source
        self._clock = clock

    def settle_as_dead(self, record: JobRecord, shard: Shard, epoch: int) -> bool:
        """End a shard's lost attempt and commit its row as dead; False if the shard is another attempt's by now.

        Raises `StorageError` if the row cannot be read or its dead letter not be stored.
        """
        shards = self._ledger.shards
        delay_s = LEASE_MS / 1000  # it is queued below before anybody else does it
        if shards.expire_attempt(shard.ref, epoch, delay_s=delay_s) is not ExpireAttemptAnswer.OK:
            return False
        stage = record.stages[shard.stage]
        ref = shards.queue(record.id, stage, shard.shard_id, epoch)
        try:
            return ref is not None and self._settle(record, ref, stage)
        except StaleToken:  # its straggler has committed
            return False

    def _settle(self, record: JobRecord, ref: ShardRef, stage: StageRecord) -> bool:
        """Run the steps of a worker; False if the job takes no more work. Raises `StaleToken`."""
        shards = self._ledger.shards
        holder = write_holder("lost-row-settler", secrets.token_hex(4))
        claim = shards.claim(ref, stage.spec.pool, holder, LEASE_MS, with_job=False)
        if claim is None:
            return False
        dead = self._dead_row(record, claim.shard)
        self._blobs.put_table(dead_letters_name(ref), dead.table())
        roots = dead.letters[0].path[:1] if record.spec.is_gathered_behind(ref.stage) else ()
        completion = Completion(0, 1, 0, dead_by_type=count_by_type(dead.letters), incomplete=roots)
        try:
            shards.commit(ref, completion, DeadLimit.of(stage.spec))
        except StaleToken:
            self._blobs.delete(dead_letters_name(ref))
            raise
        return True

    def _dead_row(self, record: JobRecord, shard: Shard) -> DeadRows:
        table = self._open_source(record, shard.stage).read(shard.slices).slice(shard.skip, 1)
        path: tuple[int, ...] = ()
        if record.spec.has_lineage:
            path = path_at(table, 0) if record.spec.reads_lineage(shard.stage) else (shard.first_row,)
        now = self._clock.wall()
        letter = DeadLetter(
            stage=shard.stage,
            index=shard.first_row,
            path=path,
            row=json_value(rows_of(without_lineage(table) if path else table)[0]),
            operator=record.spec.stages[shard.stage].operator,
            error_type=WORKER_LOST,
            message=f"The worker process that ran this row ended or froze, {shard.losses} times in a row; the row was "
            "alone in its shard the last time. It may crash the process, use up its memory, or never end.",
            attempts=shard.losses,
            worker="",
            first_failed_at=now,
            last_failed_at=now,
        )
        return DeadRows((letter,), table)
