"""Jobs that are paused, cancelled, overtaken by a deadline, deleted, or kept long enough, through a real service."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import psutil
import pyarrow as pa
import pytest
import redis

import batchmill
from support.outputs import manifest_path
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def blobs_of(folder: Path, job: batchmill.Job) -> list[Path]:
    return [path for path in folder.rglob("*") if job.id in str(path)]


@pytest.fixture
def entries_of(
    client: batchmill.Client,  # noqa: ARG001  # so that the service runs
    service_folder: Path,
) -> Iterator[Callable[[batchmill.Job], set[bytes]]]:
    """What the ledger of the session's service has of a job."""
    settings = [process.environ() for process in psutil.Process().children(recursive=True)]
    blobs = str(service_folder / "blobs")
    url = next(one["BATCHMILL_REDIS_URL"] for one in settings if one.get("BATCHMILL_BLOB_ROOT") == blobs)
    with redis.Redis.from_url(url) as ledger:

        def read(job: batchmill.Job) -> set[bytes]:
            own = job.id.encode()
            keys = set(ledger.scan_iter("batchmill:*"))
            named = {key for key in keys if own in key}
            listing = {key for key in keys if ledger.type(key) == b"zset" and ledger.zscore(key, own) is not None}
            listing |= {key for key in keys if ledger.type(key) == b"set" and ledger.sismember(key, own)}
            leading = {key for key in keys if b":idempotency:" in key and own in (ledger.get(key) or b"")}
            return named | listing | leading

        yield read


def submit_slow(client: batchmill.Client, tmp_path: Path, **options: object) -> batchmill.Job:
    """A job whose first shards take half a minute each, once its first row has begun."""
    params = {"seconds": 0.5, "journal": str(tmp_path / "journal")}
    job = client.submit("slow", rows=[{"id": n} for n in range(128)], params=params, **options)  # type: ignore[arg-type]
    until((tmp_path / "journal").exists, "the first row")
    return job


def test_a_cancelled_job_stops_in_the_middle_of_its_shards(client: batchmill.Client, tmp_path: Path) -> None:
    job = submit_slow(client, tmp_path)
    job.cancel()
    with pytest.raises(batchmill.JobCancelled):
        job.wait(timeout=GRACE_S)  # a shard takes over 30 s on an idle machine
    begun = lines(tmp_path / "journal")
    assert len(begun) < 64
    probe = client.submit("echo", rows=[{"id": 1}]).wait(timeout=GRACE_S)
    assert probe.status().state == "completed"
    assert lines(tmp_path / "journal") == begun


def test_a_paused_job_stands_still_and_goes_on_where_it_stood(client: batchmill.Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    rows = [{"id": n} for n in range(300)]
    job = client.submit("gated", rows=rows, params={"gate": str(gate)}, output=tmp_path / "out")
    until((tmp_path / "gate.started").exists, "the first row")
    assert job.pause().state == "paused"
    assert job.pause().state == "paused"
    gate.touch()
    until(lambda: job.status().shards_running == 0, "the workers' letting go")
    stands = job.status()
    assert (stands.state, stands.rows_per_second, stands.eta_s, stands.note) == ("paused", None, None, None)
    assert stands.rows_done < 300
    gate.unlink()
    begun = lines(tmp_path / "gate.started")
    other = client.submit("echo", rows=rows).wait(timeout=GRACE_S)
    assert other.to_table().num_rows == 300
    assert lines(tmp_path / "gate.started") == begun
    gate.touch()
    assert job.resume().state == "running"
    assert [row["id"] for row in job.results()] == list(range(300))
    assert job.wait(timeout=GRACE_S).status().state == "completed"
    assert job.status().rows_done == 300


def test_a_job_paused_before_a_worker_came_and_resumed_waits_for_one_again(client: batchmill.Client) -> None:
    job = client.submit("echo", rows=[{"id": 1}], pool="empty-pool")
    assert job.pause().state == "paused"
    assert job.resume().state in ("pending", "running")
    assert "empty-pool" in (job.status().note or "")
    job.pause()
    job.cancel()
    with pytest.raises(batchmill.JobCancelled):
        job.wait(timeout=GRACE_S)


def test_the_status_says_that_a_worker_loads_the_model(client: batchmill.Client, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    job = client.submit("late_model", rows=[{"id": 1}], params={"gate": str(gate)})
    until(lambda: job.status().stages[0].workers_loading == 1, "a worker loads it")
    gate.touch()
    assert job.wait(timeout=GRACE_S).status().stages[0].workers_loading == 0


def test_a_job_that_has_ended_can_be_neither_paused_nor_resumed_and_one_that_runs_not_deleted(
    client: batchmill.Client,
) -> None:
    ended = client.submit("echo", rows=[{"id": 1}]).wait(timeout=GRACE_S)
    with pytest.raises(batchmill.Conflict, match=r"has ended \(completed\) and cannot be paused"):
        ended.pause()
    with pytest.raises(batchmill.Conflict, match=r"has ended \(completed\) and cannot be resumed"):
        ended.resume()
    waiting = client.submit("echo", rows=[{"id": 1}], pool="empty-pool")
    with pytest.raises(batchmill.Conflict, match=r"has not ended .* cannot be deleted"):
        waiting.delete()
    waiting.cancel()


def test_a_job_whose_deadline_passes_stops_and_keeps_what_is_done(client: batchmill.Client, tmp_path: Path) -> None:
    job = submit_slow(client, tmp_path, deadline=4, output=tmp_path / "out")
    with pytest.raises(batchmill.JobExpired, match=r"passed its deadline after \d+ of 128 rows"):
        job.wait(timeout=GRACE_S)
    status = job.status()
    assert status.state == "expired"
    kept = job.to_table()
    assert list(job.results()) == kept.to_pylist()
    assert 0 < kept.num_rows == status.rows_done < 128
    manifest = json.loads(manifest_path(tmp_path / "out").read_text())
    assert (manifest["state"], manifest["rows"]) == ("expired", status.rows_done)


@pytest.mark.parametrize("pause", [False, True])
def test_a_job_expires_whether_it_has_begun_or_is_paused(client: batchmill.Client, pause: bool) -> None:
    job = client.submit("echo", rows=[{"id": 1}], pool="empty-pool", deadline=timedelta(seconds=1))
    if pause:
        job.pause()
    with pytest.raises(batchmill.JobExpired):
        job.wait(timeout=GRACE_S)


def test_a_job_that_is_done_before_its_deadline_completes(client: batchmill.Client) -> None:
    deadline = datetime.now(UTC) + timedelta(hours=2)
    job = client.submit("echo", rows=[{"id": 1}], deadline=deadline).wait(timeout=GRACE_S)
    assert job.status().deadline_at == deadline.timestamp()
    first = client.submit("echo", rows=[{"id": 1}], deadline=3600, idempotency_key="with-a-deadline")
    assert client.submit("echo", rows=[{"id": 1}], deadline=3600, idempotency_key="with-a-deadline").id == first.id


@pytest.mark.parametrize("upload", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_deleted_job_leaves_nothing_but_its_users_output(
    client: batchmill.Client,
    service_folder: Path,
    entries_of: Callable[[batchmill.Job], set[bytes]],
    tmp_path: Path,
    upload: bool,
) -> None:
    uploads = set((service_folder / "blobs").glob("uploads/*"))
    rows = pa.table({"id": range(100_000 if upload else 10)})
    with_output = client.submit("echo", rows=rows, output=tmp_path / "out", idempotency_key=f"deleted-{upload}")
    job = client.submit("picky", rows=rows.slice(0, 60)).wait(timeout=GRACE_S)
    with_output.wait(timeout=GRACE_S)
    assert job.status().rows_dead > 0
    assert blobs_of(service_folder / "blobs", job)
    for one in (job, with_output):
        assert len(entries_of(one)) >= 4
        one.delete()
        with pytest.raises(batchmill.NotFound):
            one.status()
        with pytest.raises(batchmill.NotFound):
            one.delete()
        assert blobs_of(service_folder / "blobs", one) == []
        assert entries_of(one) == set()
        assert one.id not in {listed.id for listed in client.jobs()}
    assert set((service_folder / "blobs").glob("uploads/*")) <= uploads
    assert manifest_path(tmp_path / "out").exists()
    again = client.submit("echo", rows=[{"id": 2}], idempotency_key=f"deleted-{upload}")
    assert again.wait(timeout=GRACE_S).id != with_output.id


@pytest.mark.slow
def test_what_is_over_its_time_is_deleted_in_the_background_and_the_rest_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BATCHMILL_RETENTION_S", "2")
    with batchmill.local(data_dir=tmp_path / "data") as client:
        ended = client.submit("echo", rows=pa.table({"id": range(100_000)})).wait(timeout=GRACE_S)
        waiting = client.submit("echo", rows=[{"id": 1}], pool="empty-pool")
        until(lambda: {job.id for job in client.jobs()} == {waiting.id}, "the deletion")
        assert blobs_of(tmp_path / "data" / "blobs", ended) == []
        assert list((tmp_path / "data" / "blobs").glob("uploads/*")) == []
        assert waiting.status().state in ("pending", "running")
