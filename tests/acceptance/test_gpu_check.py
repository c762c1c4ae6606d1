"""`make gpu-tree` and `make gpu-check`, on the CPU: the folder is built and runs with no registry to fetch from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 64 * 1024 * 1024


def test_the_folder_is_small_and_runs_its_jobs_from_its_own_wheels(root: Path, tmp_path: Path) -> None:
    tree, report = tmp_path / "gpu", tmp_path / "report.json"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    script = root / "benchmarks" / "gpu_tree.py"
    subprocess.run([sys.executable, script, "--to", tree, "--python", version], check=True, cwd=tmp_path)
    assert sum(path.stat().st_size for path in tree.rglob("*") if path.is_file()) < MAX_BYTES

    offline = os.environ | {"PIP_NO_INDEX": "1"}
    command: list[Any] = [sys.executable, tree / "gpu_check.py", "--device", "cpu", "--rows", "120", "--out", report]
    subprocess.run(command, check=True, cwd=tmp_path, env=offline)

    found = json.loads(report.read_text())
    assert found["passed"]
    assert found["device"]["kind"] == "cpu"
    assert [worker["device"] for worker in found["worker"]] == ["cpu"]
    assert {name: job["rows"] for name, job in found["jobs"].items()} == {"embed": 120, "generate": 8, "chat": 8}
    assert found["jobs"]["embed"]["min_cosine_with_cpu"] > 0.9999
    assert all(found["jobs"][name]["generated_tokens"] == 8 * 64 for name in ("generate", "chat"))


def test_without_a_gpu_the_check_fails_and_says_so(root: Path, tmp_path: Path) -> None:
    command: list[Any] = [sys.executable, root / "benchmarks" / "gpu_check.py", "--out", tmp_path / "report.json"]
    found = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "GPU_CHECK_INSTALLED": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert found.returncode == 1
    report = json.loads((tmp_path / "report.json").read_text())
    assert not report["passed"]
    assert "torch finds no CUDA device" in report["error"]
