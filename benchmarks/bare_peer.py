"""The bare script as a peer: a process that has loaded its model and encodes whenever it is asked to."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.stack import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class BarePeer:
    """The running script; `load_s` is how long it took from its start until its model was loaded."""

    def __init__(self, process: subprocess.Popen[str], out: Path, began: float) -> None:
        self._process = process
        self._out = out
        self.load_s = self._read()["loaded_at"] - began
        self.peak_mb = 0.0

    def run(self) -> float:
        """Encode all rows; seconds."""
        if self._process.stdin is None:
            raise RuntimeError("the script has no standard input")
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        report = self._read()
        self.peak_mb = report["peak_mb"]
        return float(report["took_s"])

    def vectors(self) -> Any:
        """What the last run gave."""
        return np.load(self._out)

    def _read(self) -> dict[str, float]:
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            raise RuntimeError(f"the bare script ended with {self._process.wait()}")
        return dict(json.loads(line))


@contextmanager
def bare_peer(folder: Path, rows: int, runs: int) -> Iterator[BarePeer]:
    """Run the script over `rows` rows, `runs` times."""
    out = folder / "bare.npy"
    began = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.bare_embed", str(rows), str(runs), str(out)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=REPOSITORY
    )
    try:
        yield BarePeer(process, out, began)
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
