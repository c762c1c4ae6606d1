"""A lost or rolled-back ledger is noticed, and blobs without a job are swept, on a real Valkey and a real folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from batchmill.jobs.files import UploadSource
from batchmill.ledger import Ledger
from batchmill.ledger.submission import Submission
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from batchmill.store_mark import MARK
from batchmill_coordinator.roles.clock_guard import ClockGuard
from batchmill_coordinator.roles.ledger_keeper import (
    ORPHAN_TTL_S,
    REVISION_INTERVAL_S,
    SWEEP_INTERVAL_S,
    LedgerKeeper,
)
from batchmill_coordinator.status.notices import Notice, Notices
from support.hand_clock import HandClock
from support.records import spec_of

if TYPE_CHECKING:
    from pathlib import Path

    import redis

START_S = 1_000_000_000.0


@dataclass
class Kept:
    """A keeper, what it works on, and the time that all of it has."""

    keeper: LedgerKeeper
    ledger: Ledger
    blobs: BlobStore
    notices: Notices
    clock: HandClock

    def step_after(self, seconds: float) -> None:
        while seconds > 0:  # in steps that the clock guard takes for time, not for a gap
            self.clock.now_s += min(seconds, 1800.0)
            seconds -= 1800.0
            self.ledger._store.now_ms = int(self.clock.now_s * 1000)
            self.keeper.step(1)

    def jobs(self) -> list[str]:
        return list(self.blobs.folders("jobs"))


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore.open(str(tmp_path / "blobs"), Locations(UNRESTRICTED))


@pytest.fixture
def kept(redis_client: redis.Redis, prefix: str, blobs: BlobStore) -> Kept:
    return keep(redis_client, prefix, blobs)


def keep(redis_client: redis.Redis, prefix: str, blobs: BlobStore) -> Kept:
    clock, notices = HandClock(START_S), Notices()
    ledger = Ledger(redis_client, prefix, now_ms=int(START_S * 1000))
    keeper = LedgerKeeper(ledger, blobs, ClockGuard(ledger, clock, notices), notices, clock)
    return Kept(keeper, ledger, blobs, notices, clock)


def add_job(kept: Kept, job_id: str) -> None:
    kept.ledger.jobs.submit(Submission(job_id, spec_of("echo"), "digest"), max_live_jobs=10)
    kept.blobs.put(f"jobs/{job_id}/results/part", b"rows")


def forget_everything(redis_client: redis.Redis, prefix: str) -> None:
    redis_client.delete(*redis_client.keys(f"{prefix}*"))


def test_a_store_without_a_mark_gets_one_and_nothing_is_reported(kept: Kept) -> None:
    kept.step_after(1)
    assert kept.blobs.exists(MARK)
    assert kept.notices.texts() == {}


def test_a_store_that_vanishes_under_a_leader_is_reported_and_not_marked_again(kept: Kept, tmp_path: Path) -> None:
    kept.step_after(1)
    (tmp_path / "blobs").rename(tmp_path / "elsewhere")
    (tmp_path / "blobs").mkdir()
    kept.step_after(2 * REVISION_INTERVAL_S)
    assert "has no mark of a ledger any more" in kept.notices.texts()[Notice.LEDGER]
    assert list((tmp_path / "blobs").iterdir()) == []
    (tmp_path / "blobs").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "blobs")
    kept.step_after(1)
    assert kept.notices.texts() == {}


def test_a_ledger_that_lost_its_data_is_reported_and_nothing_is_deleted(
    kept: Kept, redis_client: redis.Redis, prefix: str
) -> None:
    add_job(kept, "job-1")
    kept.step_after(1)
    forget_everything(redis_client, prefix)
    kept.step_after(ORPHAN_TTL_S + 2 * SWEEP_INTERVAL_S)
    text = kept.notices.texts()[Notice.LEDGER]
    assert "lost its data" in text
    assert kept.jobs() == ["job-1"]


def test_blobs_of_a_lost_ledger_are_swept_once_the_mark_says_so(
    kept: Kept, redis_client: redis.Redis, prefix: str
) -> None:
    add_job(kept, "job-1")
    kept.step_after(1)
    forget_everything(redis_client, prefix)
    kept.step_after(1)
    text = kept.notices.texts()[Notice.LEDGER]
    kept.blobs.unsealed().put(MARK, text[text.index("{") : text.index("}") + 1].encode())
    kept.step_after(ORPHAN_TTL_S + 2 * SWEEP_INTERVAL_S)
    assert kept.jobs() == []
    assert kept.notices.texts() == {}


def test_a_ledger_that_was_rolled_back_is_reported(kept: Kept, redis_client: redis.Redis) -> None:
    kept.step_after(1)
    copy = redis_client.dump(kept.ledger._store.keys.identity())
    assert copy is not None
    kept.step_after(3 * REVISION_INTERVAL_S)
    kept.step_after(3 * REVISION_INTERVAL_S)
    redis_client.restore(kept.ledger._store.keys.identity(), 0, copy, replace=True)
    kept.step_after(1)
    assert "rolled back" in kept.notices.texts()[Notice.LEDGER]


def test_blobs_that_no_job_has_are_deleted_after_a_day_and_others_stay(kept: Kept) -> None:
    kept.step_after(1)
    add_job(kept, "job-known")
    kept.blobs.put("jobs/job-orphan/input/part", b"rows")
    kept.step_after(ORPHAN_TTL_S - SWEEP_INTERVAL_S)
    assert kept.jobs() == ["job-known", "job-orphan"]
    kept.step_after(3 * SWEEP_INTERVAL_S)
    assert kept.jobs() == ["job-known"]


def test_uploads_that_neither_wait_nor_belong_to_a_job_are_deleted_after_a_day(kept: Kept) -> None:
    kept.step_after(1)
    for upload in ("upl-orphan", "upl-open", "upl-taken", "upl-unreadable"):
        kept.blobs.put(f"uploads/{upload}/part-00000000.arrow", b"rows")
    for upload in ("upl-open", "upl-taken", "upl-unreadable"):
        kept.ledger.uploads.begin(upload)
    for job_id, upload in (("job-1", "upl-taken"), ("job-2", "upl-unreadable")):
        spec = spec_of("echo", source=UploadSource(upload=upload, parts=1))
        kept.ledger.jobs.submit(Submission(job_id, spec, "digest"), max_live_jobs=10)
    newer = json.dumps({"inputs": [{"upload": "upl-unreadable"}]})  # of a version that this one cannot read
    kept.ledger._store.redis.hset(kept.ledger._store.keys.job("job-2"), "spec", newer)
    kept.step_after(ORPHAN_TTL_S - SWEEP_INTERVAL_S)
    assert kept.blobs.exists("uploads/upl-orphan/part-00000000.arrow")
    kept.step_after(3 * SWEEP_INTERVAL_S)
    assert list(kept.blobs.folders("uploads")) == ["upl-open", "upl-taken", "upl-unreadable"]


def test_uploads_are_kept_for_as_long_as_a_job_names_them_and_its_request_is_read_once(kept: Kept) -> None:
    ledger, redis = kept.ledger, kept.ledger._store.redis
    for job_id, upload in (("job-1", "upl-1"), ("job-2", "upl-2")):
        ledger.uploads.begin(upload)
        spec = spec_of("echo", source=UploadSource(upload=upload, parts=1))
        ledger.jobs.submit(Submission(job_id, spec, "digest"), max_live_jobs=10)
        assert ledger.identity.unknown_uploads([upload, "upl-none"]) == ["upl-none"]
    redis.hdel(ledger._store.keys.job("job-1"), "spec")
    assert ledger.identity.unknown_uploads(["upl-1", "upl-2"]) == []
    redis.zrem(ledger._store.keys.jobs(), "job-1")
    assert ledger.identity.unknown_uploads(["upl-1", "upl-2"]) == ["upl-1"]


def test_a_folder_whose_job_is_accepted_late_is_not_deleted(kept: Kept) -> None:
    kept.step_after(1)
    kept.blobs.put("jobs/job-late/input/part", b"rows")
    kept.step_after(2 * SWEEP_INTERVAL_S)
    add_job(kept, "job-late")
    kept.step_after(ORPHAN_TTL_S + 2 * SWEEP_INTERVAL_S)
    assert kept.jobs() == ["job-late"]


def test_a_store_that_has_jobs_of_nobody_knows_whom_is_never_swept(
    redis_client: redis.Redis, prefix: str, blobs: BlobStore
) -> None:
    blobs.put("jobs/job-foreign/results/part", b"rows")
    kept = keep(redis_client, prefix, blobs)
    kept.step_after(ORPHAN_TTL_S + 3 * SWEEP_INTERVAL_S)
    assert kept.jobs() == ["job-foreign"]


def test_a_second_ledger_over_one_store_does_not_take_it(
    kept: Kept, redis_client: redis.Redis, prefix: str, blobs: BlobStore
) -> None:
    add_job(kept, "job-1")
    kept.step_after(1)
    other = keep(redis_client, f"{prefix}other:", blobs)
    other.step_after(ORPHAN_TTL_S + 2 * SWEEP_INTERVAL_S)
    assert Notice.LEDGER in other.notices.texts()
    assert kept.jobs() == ["job-1"]
