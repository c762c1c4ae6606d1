"""What a running attempt saves early, and what becomes of it when the ledger refuses it."""

from __future__ import annotations

import logging
from threading import Event
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pytest

from batchmill.errors import LedgerRefused, StaleToken
from batchmill.jobs.shard import ShardId, ShardRef, checkpoint_name
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from batchmill_worker.runtime.trace import NO_TRACE
from batchmill_worker.slot.attempt import attempt_store
from batchmill_worker.slot.attempt.attempt_store import AttemptStore

if TYPE_CHECKING:
    from pathlib import Path

REF = ShardRef("job-1", 0, ShardId((3,)), 1)


@pytest.mark.parametrize(("error", "is_logged"), [(StaleToken("gone"), False), (LedgerRefused("full"), True)])
def test_a_straggler_leaves_no_checkpoint_and_other_refusals_are_logged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    *,
    is_logged: bool,
) -> None:
    def refuse(*_: object) -> None:
        raise error

    blobs = BlobStore.open(str(tmp_path), Locations(UNRESTRICTED))
    monkeypatch.setattr(attempt_store, "encode_progress", lambda *_, **__: pa.table({"row": [1]}))
    store = AttemptStore(cast("Any", SimpleNamespace(save_checkpoint=refuse)), blobs, NO_TRACE)
    loaded = cast("Any", SimpleNamespace(shard=SimpleNamespace(ref=REF), is_handed=False, early=Event()))
    with caplog.at_level(logging.WARNING):
        store.save_early(loaded, cast("Any", None))
    assert ("not saved yet" in caplog.text) is is_logged
    assert blobs.exists(checkpoint_name(REF)) is is_logged
