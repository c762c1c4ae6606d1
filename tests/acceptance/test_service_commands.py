"""`run`, `up --detach`, `info`, `delete` and `down` as a user types them, in a terminal of 80 columns."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from batchmill.embedded.folder import DataFolder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BATCHMILL = [sys.executable, "-m", "batchmill"]
COLUMNS = 80


class Terminal:
    """A user at a terminal in a folder, over a data folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("BATCHMILL_")}
        self._env |= {"BATCHMILL_DATA_DIR": str(self.data), "TERM": "xterm", "COLUMNS": str(COLUMNS)}

    def types(self, *arguments: str, code: int = 0) -> str:
        """Run a command whose output is a pipe; return that."""
        done = subprocess.run(
            [*BATCHMILL, *arguments], cwd=self.folder, env=self._env, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def sees(self, *arguments: str) -> list[str]:
        """Run a command whose output is a terminal; return its lines, without what moves the cursor."""
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [*BATCHMILL, *arguments], cwd=self.folder, env=self._env, stdin=theirs, stdout=theirs, stderr=theirs
        ) as process:
            os.close(theirs)
            shown = b"".join(iter(lambda: _read(ours), b""))
        os.close(ours)
        assert process.returncode == 0, shown.decode()
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode()).replace("\r", "\n").splitlines()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # its other end is closed
        return b""


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    (tmp_path / "rows.jsonl").write_text("".join(f'{{"id": {n}}}\n' for n in range(20)))
    at = Terminal(tmp_path)
    yield at
    at.types("down")


def test_run_needs_no_service_and_leaves_none(terminal: Terminal) -> None:
    lines = terminal.sees("run", "echo", "rows.jsonl", "-o", "out.parquet")
    assert any("completed: 20 rows" in line for line in lines)
    assert pq.read_table(terminal.folder / "out.parquet").column("id").to_pylist() == list(range(20))
    assert DataFolder(terminal.data).running() is None


def test_a_detached_service_is_described_used_by_several_jobs_and_stopped(terminal: Terminal) -> None:
    started = terminal.types("up", "--detach", "--port", "0")
    assert "Batchmill is running at http://" in started
    assert "`batchmill down` stops it" in started
    assert "Ctrl-C" not in started
    record = DataFolder(terminal.data).running()
    assert record is not None

    info = terminal.sees("info")
    assert any(line.split() == ["service:", record.url] for line in info)
    assert any(line.startswith("operators:") and "echo" in line for line in info)

    ids = [
        json.loads(terminal.types("submit", "echo", "rows.jsonl", "--wait", "--json", "--name", name))["id"]
        for name in ("one", "two", "three")
    ]
    table = terminal.sees("jobs")
    assert all(any(line.startswith(job_id) for line in table) for job_id in ids)
    assert all(len(line) <= COLUMNS for line in table)

    terminal.types("delete", "one", ids[1])
    left = terminal.types("jobs")
    assert ids[2] in left
    assert ids[0] not in left
    assert ids[1] not in left

    assert terminal.types("down") == "Stopped.\n"
    assert DataFolder(terminal.data).running() is None
    assert terminal.types("down") == f"No service runs over {terminal.data}.\n"
