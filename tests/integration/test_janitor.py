"""The janitor, on a real Valkey and a real folder: what is over its time goes, whatever was cut short before."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from batchmill.errors import NotFound, Overloaded, StorageError
from batchmill.jobs.files import UploadSource
from batchmill.jobs.job import JobState
from batchmill.ledger import Ledger
from batchmill.ledger.submission import Submission
from batchmill.settings import CoordinatorSettings
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from batchmill_coordinator.api.tenants import Access
from batchmill_coordinator.batches.files import Files
from batchmill_coordinator.roles.clock_guard import ClockGuard
from batchmill_coordinator.roles.deletion import delete_job
from batchmill_coordinator.roles.janitor import Janitor
from batchmill_coordinator.status.notices import Notices
from support.hand_clock import HandClock
from support.records import spec_of

if TYPE_CHECKING:
    import redis

EPOCH = 1
START_MS = 1_000_000_000_000


class StubbornBlobs(BlobStore):
    """A blob store that cannot delete some folders."""

    held: frozenset[str] = frozenset()

    def delete_folder(self, prefix: str) -> None:
        if prefix in self.held:
            raise StorageError(f"could not delete {prefix}: the disk is away.")
        super().delete_folder(prefix)


@pytest.fixture
def blobs(tmp_path: Path) -> StubbornBlobs:
    return StubbornBlobs(BlobStore.open(str(tmp_path / "blobs"), Locations(UNRESTRICTED)).root)


@pytest.fixture
def now(redis_client: redis.Redis, prefix: str) -> Ledger:
    """A ledger at a time of its own, that this process leads."""
    ledger = Ledger(redis_client, prefix, now_ms=START_MS)
    assert ledger.lead("me", 3600) == EPOCH
    return ledger


def an_hour_later(redis_client: redis.Redis, prefix: str) -> Ledger:
    return Ledger(redis_client, prefix, now_ms=START_MS + 3_600_000)


def janitor(ledger: Ledger, blobs: BlobStore, *, retention_s: float) -> Janitor:
    clocks = ClockGuard(ledger, HandClock(ledger.now_ms() / 1000), Notices())
    files = Files(ledger, blobs, CoordinatorSettings(tokens=("t",)))
    return Janitor(ledger, blobs, files, clocks, upload_ttl_s=60, retention_s=retention_s)


def end_job(ledger: Ledger, blobs: BlobStore, job_id: str) -> None:
    """A job that took an upload, has results, and was cancelled."""
    upload = f"upl-of-{job_id}"
    ledger.uploads.begin(upload)
    spec = spec_of(operator="echo", source=UploadSource(upload=upload, parts=1))
    ledger.jobs.submit(Submission(job_id, spec, "digest"), max_live_jobs=10)
    blobs.put(f"uploads/{upload}/part-00000000.arrow", b"rows")
    blobs.put(f"jobs/{job_id}/results/part-00000000-a1.arrow", b"results")
    ledger.jobs.stop(job_id, JobState.CANCELLING, None)
    assert ledger.jobs.finish(ledger.jobs.read(job_id), JobState.CANCELLED, EPOCH)


def jobs_of(ledger: Ledger) -> set[str]:
    return {record.id for record in ledger.jobs.newest(100)}


def test_jobs_that_ended_long_ago_are_deleted_with_their_rows(
    now: Ledger, blobs: StubbornBlobs, redis_client: redis.Redis, prefix: str
) -> None:
    later = an_hour_later(redis_client, prefix)
    end_job(now, blobs, "job-old")
    end_job(later, blobs, "job-new")
    janitor(later, blobs, retention_s=3600).step(EPOCH)
    assert jobs_of(later) == {"job-new"}
    assert blobs.list() == ["jobs/job-new/results/part-00000000-a1.arrow", "uploads/upl-of-job-new/part-00000000.arrow"]


def test_without_a_retention_jobs_are_kept_for_ever(
    now: Ledger, blobs: StubbornBlobs, redis_client: redis.Redis, prefix: str
) -> None:
    end_job(now, blobs, "job-old")
    janitor(an_hour_later(redis_client, prefix), blobs, retention_s=0).step(EPOCH)
    assert jobs_of(now) == {"job-old"}


def test_a_job_that_ended_while_the_clock_was_ahead_keeps_no_other(
    now: Ledger, blobs: StubbornBlobs, redis_client: redis.Redis, prefix: str
) -> None:
    now.retention.note_clock(START_MS)
    end_job(Ledger(redis_client, prefix, now_ms=START_MS + 10 * 86_400_000), blobs, "job-ahead")
    end_job(now, blobs, "job-right")
    janitor(an_hour_later(redis_client, prefix), blobs, retention_s=1800).step(EPOCH)
    assert jobs_of(now) == {"job-ahead"}


def test_jobs_that_end_while_the_clock_is_behind_are_kept_once_it_is_right(
    now: Ledger, blobs: StubbornBlobs, redis_client: redis.Redis, prefix: str
) -> None:
    behind = Ledger(redis_client, prefix, now_ms=START_MS - 10 * 86_400_000)
    now.retention.note_clock(START_MS)
    now.jobs.submit(Submission("job-begun", spec_of(operator="echo"), "digest"), max_live_jobs=10)
    now.jobs.stop("job-begun", JobState.CANCELLING, None)
    assert behind.jobs.finish(behind.jobs.read("job-begun"), JobState.CANCELLED, EPOCH)
    end_job(behind, blobs, "job-behind")
    janitor(an_hour_later(redis_client, prefix), blobs, retention_s=2 * 3600).step(EPOCH)
    assert jobs_of(now) == {"job-begun", "job-behind"}
    assert "jobs/job-behind/results/part-00000000-a1.arrow" in blobs.list()


@pytest.mark.parametrize("held", ["jobs/job-1", "uploads/upl-of-job-1"])
def test_a_deletion_that_was_cut_short_is_gone_on_with(now: Ledger, blobs: StubbornBlobs, held: str) -> None:
    end_job(now, blobs, "job-1")
    blobs.held = frozenset({held})
    with pytest.raises(StorageError):
        delete_job(now, blobs, "job-1")
    assert jobs_of(now) == {"job-1"}
    blobs.held = frozenset()
    janitor(now, blobs, retention_s=0).step(EPOCH)
    assert (jobs_of(now), blobs.list()) == (set(), [])
    with pytest.raises(NotFound):
        delete_job(now, blobs, "job-1")


def test_a_job_that_cannot_be_deleted_does_not_keep_the_others(
    now: Ledger, blobs: StubbornBlobs, redis_client: redis.Redis, prefix: str
) -> None:
    for job_id in ("job-1", "job-2", "job-3"):
        end_job(now, blobs, job_id)
    blobs.held = frozenset({"jobs/job-2"})
    later = an_hour_later(redis_client, prefix)
    janitor(later, blobs, retention_s=60).step(EPOCH)
    assert jobs_of(later) == {"job-2"}
    blobs.held = frozenset()
    janitor(later, blobs, retention_s=60).step(EPOCH)
    assert (jobs_of(later), blobs.list()) == (set(), [])


def test_uploads_that_no_job_took_are_deleted_by_the_leader(
    now: Ledger, blobs: StubbornBlobs, redis_client: redis.Redis, prefix: str
) -> None:
    now.uploads.begin("upl-lost")
    blobs.put("uploads/upl-lost/part-00000000.arrow", b"rows")
    later = an_hour_later(redis_client, prefix)
    janitor(later, blobs, retention_s=60).step(EPOCH + 1)
    assert later.uploads.is_open("upl-lost")
    janitor(later, blobs, retention_s=60).step(EPOCH)
    assert (later.uploads.is_open("upl-lost"), blobs.list()) == (False, [])


def test_expired_files_are_deleted_by_the_leader_and_others_stay(
    now: Ledger, blobs: StubbornBlobs, redis_client: redis.Redis, prefix: str
) -> None:
    files = Files(now, blobs, CoordinatorSettings(tokens=("t",)))
    kept, expired = (stored(files, ttl_s) for ttl_s in (7200, 3600))
    later = an_hour_later(redis_client, prefix)
    janitor(later, blobs, retention_s=60).step(EPOCH)
    assert later.files.find(expired) is None
    assert later.files.find(kept)
    assert blobs.list() == [f"files/{kept}/content"]


def test_a_tenant_has_so_many_files_and_so_many_bytes_and_deleting_makes_room(
    now: Ledger, blobs: StubbornBlobs
) -> None:
    settings = CoordinatorSettings(tokens=("t",), max_files_per_tenant=3, max_file_bytes_per_tenant=9)
    files = Files(now, blobs, settings)
    first = stored(files)
    stored(files)
    with pytest.raises(Overloaded, match="9 bytes"):
        stored(files)
    assert len(blobs.list()) == 2
    stored(files, tenant="other")
    files.delete(first, Access("acme"))
    stored(files)
    files.store_output("file-out", "acme", "out.jsonl", None, lambda path: write(path, "more"))
    with pytest.raises(Overloaded):
        files.require_room("acme")


def stored(files: Files, ttl_s: int | None = None, tenant: str = "acme") -> str:
    return files.store(tenant, "a.jsonl", "batch", 4, ttl_s, lambda path: write(path, "line")).id


def write(path: str, text: str) -> None:
    Path(path).write_text(text)
