"""`batchmill up` is stopped or killed, and started again over its folder."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

import batchmill
from batchmill.processes.parent_death import die_with_parent
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from pathlib import Path

OPERATORS = ("mill_operators",)


def start_up(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "batchmill", "up", "--data-dir", str(folder), "--operators", OPERATORS[0]]
    process = subprocess.Popen(die_with_parent(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until((folder / "service.json").exists, "the service's start")
    return process


def reach(folder: Path) -> batchmill.Client:
    record = json.loads((folder / "service.json").read_text())
    return batchmill.Client(record["url"], record["token"])


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_service_started_again_over_its_folder_goes_on_with_unfinished_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    folder, gate = tmp_path / "data", tmp_path / "gate"
    monkeypatch.setenv("BATCHMILL_DRAIN_S", "0.5")
    first = start_up(folder)
    children = psutil.Process(first.pid).children(recursive=True)
    with reach(folder) as client:
        job = client.submit("gated", rows=[{"id": n} for n in range(300)], params={"gate": str(gate)})
        waiting = client.submit("echo", rows=[{"id": n} for n in range(5)], pool="nobody-there")
        until((tmp_path / "gate.started").exists, "the first row")
    first.send_signal(how)
    first.communicate(timeout=GRACE_S)
    gone, alive = psutil.wait_procs(children, timeout=GRACE_S)
    assert (len(gone), alive) == (len(children), [])
    gate.touch()
    (folder / "service.json").unlink(missing_ok=True)
    second = start_up(folder)
    try:
        with reach(folder) as client:
            assert [row["id"] for row in client.job(job.id).results()] == list(range(300))
            assert client.job(job.id).wait(timeout=GRACE_S).status().state == "completed"
            note = client.job(waiting.id).status().note or ""
            assert "nobody-there" in note
            assert "batchmill worker --pool nobody-there" in note
    finally:
        second.terminate()
        second.communicate(timeout=GRACE_S)
