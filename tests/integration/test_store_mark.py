"""A ledger knows its blob store: a service with another one does not start, and says which one it should have."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest

from batchmill.errors import InvalidSettings, StorageError
from batchmill.ledger import Ledger
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from batchmill.store_mark import MARK, Mark, StoreMark
from batchmill_worker.slot.attempt.store_guard import CHECK_INTERVAL_S, StoreGuard
from support.hand_clock import HandClock

if TYPE_CHECKING:
    from pathlib import Path

    import redis


@pytest.fixture
def ledger(redis_client: redis.Redis, prefix: str) -> Ledger:
    return Ledger(redis_client, prefix)


def store(folder: Path) -> BlobStore:
    return BlobStore.open(str(folder), Locations(UNRESTRICTED))


def test_a_store_that_is_marked_for_the_ledger_is_its_own(ledger: Ledger, tmp_path: Path) -> None:
    mark = StoreMark(ledger, store(tmp_path / "a"))
    assert not mark.require()
    mark.write(Mark(ledger=ledger.identity.read("new").ledger_id))
    assert mark.require()


def test_a_store_without_the_mark_is_refused_and_both_are_named(ledger: Ledger, tmp_path: Path) -> None:
    StoreMark(ledger, store(tmp_path / "a")).write(Mark(ledger=ledger.identity.read("new").ledger_id))
    other = StoreMark(ledger, store(tmp_path / "b"))
    with pytest.raises(
        InvalidSettings, match=r"/b is not that of this ledger: it has no mark.*keeps its blobs in .*/a"
    ):
        other.require()
    other.write(Mark(ledger="another"))
    with pytest.raises(InvalidSettings, match="it belongs to another ledger, another"):
        other.require()


def test_the_hint_says_how_to_move_the_blobs(ledger: Ledger, tmp_path: Path) -> None:
    StoreMark(ledger, store(tmp_path / "a")).write(Mark(ledger=ledger.identity.read("new").ledger_id))
    moved = store(tmp_path / "b")
    with pytest.raises(InvalidSettings) as refused:
        StoreMark(ledger, moved).require()
    text = refused.value.hint
    moved.unsealed().put(MARK, text[text.index("{") : text.index("}") + 1].encode())
    assert StoreMark(ledger, moved).require()


def test_a_store_that_takes_no_blobs_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    blobs = store(tmp_path / "a")
    StoreMark(ledger, blobs).require_writable()
    assert blobs.list() == []
    shutil.rmtree(tmp_path / "a" / "service")
    (tmp_path / "a" / "service").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match="could not write"):
        StoreMark(ledger, blobs).require_writable()


def test_a_worker_whose_store_is_exchanged_stops_to_claim(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, clock, signals = store(tmp_path / "a"), HandClock(0.0), []
    monkeypatch.setattr(os, "kill", lambda pid, number: signals.append((pid, number)))
    guard = StoreGuard(StoreMark(ledger, blobs), clock)
    assert guard.allows_claims()  # nobody has marked a store yet
    StoreMark(ledger, blobs).write(Mark(ledger=ledger.identity.read("new").ledger_id))
    assert guard.allows_claims()
    blobs.unsealed().delete(MARK)
    assert guard.allows_claims()
    clock.now_s += CHECK_INTERVAL_S + 1
    assert not guard.allows_claims()
    assert signals == [(os.getpid(), signal.SIGTERM)]
