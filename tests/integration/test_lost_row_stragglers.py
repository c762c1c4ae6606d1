"""A row that ended its workers, whose straggler is done while its dead letter is being made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pytest

from batchmill.clock import SystemClock
from batchmill.jobs.completion import Completion
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from batchmill_coordinator.roles.lost_rows import LostRowSettler
from support.ledger_steps import LEASE_MS, claim, plan, queue_one, submit

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill.jobs.shard import ShardRef
    from batchmill.ledger import JobRecord, Ledger

NOW_MS = 1_700_000_000_000


class InputMeanwhile:
    """The input of a job; while its row is read, the straggler commits, if it is to."""

    def __init__(self, ledger: Ledger, straggler: ShardRef, *, commits: bool) -> None:
        self._ledger = ledger
        self._straggler = straggler
        self._commits = commits

    def open(self, _record: JobRecord, _stage: int) -> Any:
        return self

    def read(self, _slices: object) -> pa.Table:
        if self._commits:
            assert self._ledger.shards.commit(self._straggler, Completion(1, 0, 10, inline=b"x"))
        return pa.table({"id": [7]})


@pytest.mark.parametrize("commits", [True, False])
def test_a_lost_row_is_dead_unless_its_straggler_is_done_first(
    ledger: Ledger, epoch: int, tmp_path: Path, *, commits: bool
) -> None:
    ledger._store.now_ms = NOW_MS
    submit(ledger)
    plan(ledger, epoch, [1])
    straggler = queue_one(ledger, epoch)
    claim(ledger, straggler, "w1 a")
    second = ledger.stragglers.speculate(straggler, "default", epoch)
    assert second is not None
    lost = claim(ledger, second, "w2 a")
    ledger._store.now_ms = NOW_MS + LEASE_MS // 2
    ledger.shards.renew([straggler], LEASE_MS)
    ledger._store.now_ms = NOW_MS + LEASE_MS
    blobs = BlobStore.open(str(tmp_path), Locations(UNRESTRICTED))
    source = InputMeanwhile(ledger, straggler, commits=commits)
    settler = LostRowSettler(ledger, blobs, cast("Any", source.open), SystemClock())
    assert settler.settle_as_dead(ledger.jobs.read("job-1"), lost, epoch) is not commits
    stage = ledger.jobs.read("job-1").first
    assert (stage.rows_done, stage.rows_dead, stage.stragglers, stage.shards_live) == (commits, not commits, 0, 0)
    assert bool(blobs.list("jobs")) is not commits
