"""A supervisor and its slots as real processes: what they are given, and how they are replaced and stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from batchmill.processes.parent_death import die_with_parent
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill.ledger import Ledger

OPERATORS = ("mill_operators",)
GPUS = [
    {"number": "0", "uuid": "GPU-aa", "model": "NVIDIA L4", "memory_mb": 1000},
    {"number": "1", "uuid": "GPU-bb", "model": "NVIDIA L4", "memory_mb": 1000},
    {"number": "2.0", "uuid": "MIG-cc", "model": "NVIDIA A100 MIG 1g.5gb"},
]


@pytest.mark.slow
def test_slots_find_the_environment_and_the_cores_they_were_promised_before_anything_imports_torch(
    tmp_path: Path, valkey_url: str, prefix: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "devices.json").write_text(json.dumps(GPUS))
    (tmp_path / "witness").mkdir()
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    env = {
        **os.environ,
        "BATCHMILL_REDIS_URL": valkey_url,
        "BATCHMILL_REDIS_PREFIX": prefix,
        "BATCHMILL_BLOB_ROOT": str(tmp_path / "blobs"),
        "BATCHMILL_STAND_IN_DEVICES": str(tmp_path / "devices.json"),
        "WITNESS": str(tmp_path / "witness"),
        "MKL_NUM_THREADS": "7",
    }
    ready = tmp_path / "ready.json"
    arguments = ["--devices", "cuda:0+1,2.0", "--operators", "witness_operators", "--listen", "127.0.0.1:0"]
    command = [sys.executable, "-m", "batchmill", "worker", *arguments, "--ready-file", str(ready)]
    supervisor = subprocess.Popen(die_with_parent(command), env=env)
    try:
        until(ready.exists, "the slots' presence")
        url = json.loads(ready.read_text())["status_url"]
        for path in ("/healthz", "/readyz"):
            with urllib.request.urlopen(url + path, timeout=GRACE_S) as answer:  # noqa: S310  # our own
                assert json.load(answer)["ok"]
        both, sliced = sorted(ledger.fleet.workers(ledger.now_ms()), key=lambda worker: worker.slot)
    finally:
        supervisor.terminate()
        assert supervisor.wait(GRACE_S) == 0

    ending = f"@{os.uname().nodename}-{supervisor.pid}"
    assert (both.name, sliced.name) == (f"gpu0+1{ending}", f"gpu2.0{ending}")
    assert (both.device, both.device_count, both.memory_bytes) == ("cuda:0", 2, 2000 << 20)
    assert (sliced.device, sliced.device_type, sliced.memory_bytes) == ("cuda:0", "NVIDIA A100 MIG 1g.5gb", None)
    noted = [json.loads((tmp_path / "witness" / f"{worker.pid}.json").read_text()) for worker in (both, sliced)]
    assert [one["env"]["CUDA_VISIBLE_DEVICES"] for one in noted] == ["GPU-aa,GPU-bb", "MIG-cc"]
    assert not any(one["torch"] for one in noted)
    _assert_cores_are_divided(noted)
    assert len(list((tmp_path / "witness").iterdir())) == 2  # the supervisor itself imports no operators
    assert ledger.fleet.workers(ledger.now_ms()) == []


def _assert_cores_are_divided(noted: list[dict[str, Any]]) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    first, second = (one["cores"] for one in noted)
    if len(allowed) > 1 and first != allowed:  # one core cannot be divided, a quota is not
        assert sorted(first + second) == allowed
    for one in noted:
        assert 1 <= int(one["env"]["OMP_NUM_THREADS"]) <= len(one["cores"])
        assert one["env"]["MKL_NUM_THREADS"] == "7"
        assert one["env"]["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"


def run_worker(folder: Path, operators: str, **env: str) -> subprocess.Popen[str]:
    """A supervisor with an operator module of its own, on a ledger that is not there."""
    (folder / "mine.py").write_text(operators)
    return subprocess.Popen(
        die_with_parent([sys.executable, "-m", "batchmill", "worker", "--operators", "mine"]),
        cwd=folder,
        env={**os.environ, "BATCHMILL_BLOB_ROOT": "b", "BATCHMILL_REDIS_URL": f"unix://{folder}/s", **env},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_second_signal_ends_a_supervisor_that_waits_for_its_slots(tmp_path: Path) -> None:
    deaf = """
import os, pathlib, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path("pid.new").write_text(str(os.getpid()))
pathlib.Path("pid.new").rename("pid")
signal.pause()
"""
    supervisor = run_worker(tmp_path, deaf, BATCHMILL_DRAIN_S="600")
    until((tmp_path / "pid").exists, "the import of the operators")
    slot = psutil.Process(int((tmp_path / "pid").read_text()))
    assert supervisor.stderr is not None
    supervisor.terminate()
    assert any("SIGTERM: draining" in line for line in supervisor.stderr)  # others are of the ledger that is not there
    supervisor.send_signal(signal.SIGINT)
    _, said = supervisor.communicate(timeout=GRACE_S)
    assert supervisor.returncode == 128 + signal.SIGINT
    assert "SIGINT again" in said
    assert not slot.is_running()


@pytest.mark.slow
def test_a_slot_that_cannot_start_ends_its_supervisor_with_the_reason(tmp_path: Path) -> None:
    supervisor = run_worker(tmp_path, "import no_such_library")
    _, said = supervisor.communicate(timeout=GRACE_S)
    assert supervisor.returncode == 2
    assert "error: module 'mine'" in said.splitlines()[-1]
    assert "imports 'no_such_library': install that on the worker" in said.splitlines()[-1]
