"""What must hold when rows, workers and leases fail: nothing is lost, nothing is doubled."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import psutil
import pytest
from waiting import GRACE_S, until

import batchmill

if TYPE_CHECKING:
    from pathlib import Path

OPERATORS = ("mill_operators",)


def test_a_row_that_kills_its_process_is_found_and_given_up_on_and_its_neighbours_are_all_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchmill.children.BACKOFF_MAX_S", 1.0)
    with batchmill.local(workers=2, data_dir=tmp_path, operators=OPERATORS) as client:
        job = client.submit("killer", rows=[{"id": n} for n in range(64)], params={"victim": 21}, carry=["id"])
        results = [row["id"] for row in job.results()]
        assert results == [n for n in range(64) if n != 21]
        status = job.wait(timeout=GRACE_S).status()
        assert (status.state, status.rows_done, status.rows_dead) == ("completed", 63, 1)
        (letter,) = job.dead_letters()
        assert (letter.index, letter.row, letter.error_type) == (21, {"id": 21}, "WorkerLost")


def test_a_row_that_hangs_is_found_by_the_watchdog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHMILL_BATCH_TIMEOUT_S", "1")
    with batchmill.local(workers=2, data_dir=tmp_path, operators=OPERATORS) as client:
        job = client.submit("sleeper", rows=[{"id": n} for n in range(8)], params={"victim": 3}, carry=["id"])
        assert [row["id"] for row in job.results()] == [n for n in range(8) if n != 3]
        assert [letter.index for letter in job.dead_letters()] == [3]
    assert "sleeper" in (tmp_path / "logs" / "worker.log").read_text()


def test_rows_that_fail_now_and_then_are_tried_again_and_no_other_row_runs_twice(
    client: batchmill.Client, tmp_path: Path
) -> None:
    rows = [{"id": n} for n in range(100)]
    retry = batchmill.RetryPolicy(max_attempts=5, backoff_s=0.2)
    job = client.submit("flaky", rows=rows, params={"log": str(tmp_path)}, carry=["id"], retry=retry)
    assert [row["id"] for row in job.results()] == list(range(100))
    assert job.wait(timeout=GRACE_S).status().rows_dead == 0
    done = {path.stem: path.read_text() for path in tmp_path.glob("*.done")}
    assert done == {str(n): "x" for n in range(100)}


def test_rows_that_fail_every_time_are_given_up_on_with_their_story(client: batchmill.Client, tmp_path: Path) -> None:
    retry = batchmill.RetryPolicy(max_attempts=2, backoff_s=0.1)
    params = {"log": str(tmp_path), "failures": 99}
    job = client.submit("flaky", rows=[{"id": n} for n in range(30)], params=params, retry=retry)
    assert [row["id"] for row in job.results()] == [n for n in range(30) if n % 3]
    letters = job.wait(timeout=GRACE_S).dead_letters()
    assert [letter.index for letter in letters] == [n for n in range(30) if n % 3 == 0]
    first = letters[0]
    assert (first.row, first.operator, first.error_type, first.attempts) == ({"id": 0}, "flaky", "ConnectionError", 2)
    assert "not in the mood" in first.message
    assert "mill_operators.py" in first.traceback
    assert first.first_failed_at < first.last_failed_at
    assert job.dead_letter_counts() == {"ConnectionError": 10}


def test_too_many_dead_rows_fail_the_job_early(client: batchmill.Client, tmp_path: Path) -> None:
    retry = batchmill.RetryPolicy(max_attempts=1, max_dead=5)
    params = {"log": str(tmp_path), "failures": 99}
    job = client.submit("flaky", rows=[{"id": n} for n in range(3000)], params=params, retry=retry)
    with pytest.raises(batchmill.JobFailed, match="max_dead"):
        job.wait(timeout=GRACE_S)
    assert job.status().rows_dead < 1000


def test_a_frozen_worker_wakes_to_find_its_shard_gone_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    started = tmp_path / "gate.started"
    monkeypatch.setenv("BATCHMILL_LEASE_TTL_S", "1")
    with batchmill.local(workers=2, data_dir=tmp_path / "data", operators=OPERATORS) as client:
        job = client.submit("gated", rows=[{"id": 7}], params={"gate": str(gate)}, output=tmp_path / "out")
        until(lambda: started.exists() and bool(started.read_text()), "the first attempt")
        frozen = psutil.Process(int(started.read_text().split()[1]))
        frozen.suspend()
        until(lambda: len(started.read_text().splitlines()) == 2, "the second attempt, in another process")
        gate.touch()
        (row,) = job.results()
        assert row["pid"] != frozen.pid
        job.wait(timeout=GRACE_S)
        frozen.resume()
        log = tmp_path / "data" / "logs" / "worker.log"
        until(lambda: "lost its shard" in log.read_text(), "the refusal of the late attempt")
        manifest = json.loads((tmp_path / "out" / "_manifest.json").read_text())
        parts = sorted(path.name for path in (tmp_path / "out").glob("part-*"))
        assert (manifest["rows"], parts) == (1, [manifest["parts"][0]["name"]])
        assert job.status().rows_done == 1


def test_a_worker_that_is_stopped_hands_back_what_is_left_and_no_row_runs_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, started = tmp_path / "gate", tmp_path / "gate.started"
    monkeypatch.setenv("BATCHMILL_DRAIN_S", "20")
    with batchmill.local(workers=1, data_dir=tmp_path / "data", operators=OPERATORS) as client:
        job = client.submit("gated", rows=[{"id": n} for n in range(40)], params={"gate": str(gate)})
        until(started.exists, "the first row")
        (worker,) = client.workers()
        os.kill(worker.pid, signal.SIGTERM)
        gate.touch()
        assert [row["id"] for row in job.results()] == list(range(40))
        pids = [row["pid"] for row in job.results()]
    met = [line.split() for line in started.read_text().splitlines()]
    assert sorted(int(row) for row, _ in met) == list(range(40))
    assert pids[0] == worker.pid
    assert len(set(pids)) == 2


def test_the_last_worker_may_die_and_a_new_one_goes_on(client: batchmill.Client) -> None:
    job = client.submit("echo", rows=[{"id": n} for n in range(10)])
    for worker in client.workers():
        os.kill(worker.pid, signal.SIGKILL)
    assert [row["id"] for row in job.results()] == list(range(10))
    later = client.submit("echo", rows=[{"id": 1}])
    assert list(later.results()) == [{"id": 1}]
