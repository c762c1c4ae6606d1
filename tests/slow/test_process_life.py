"""Worker processes that die, hang, freeze and are told to stop, in the middle of their shards."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import psutil

import batchmill
from support.outputs import manifest_path
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

OPERATORS = ("mill_operators",)


def test_a_row_that_kills_its_process_is_found_and_given_up_on_and_its_neighbours_are_all_done(
    tmp_path: Path,
) -> None:
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
        manifest = json.loads(manifest_path(tmp_path / "out").read_text())
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
