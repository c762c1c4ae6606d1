"""Commands that follow a job: in a pipe, on a terminal, and interrupted."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

from batchmill.cli.terminal.progress import PlainLines
from batchmill.clock import SystemClock
from batchmill.jobs.job import JobState
from batchmill.jobs.status import JobStatus, StageStatus
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    from support.live_service import LiveService


ROWS = "".join(json.dumps({"id": i, "text": f"row {i}"}) + "\n" for i in range(5))


def _command(service: LiveService, *args: str, **options: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"BATCHMILL_URL": service.url, "BATCHMILL_TOKEN": service.token}
    command = [sys.executable, "-c", "import batchmill.cli; batchmill.cli.main()", *args]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_ctrl_c_while_waiting_says_that_the_job_continues(
    service: LiveService, run: Callable[..., Result], tmp_path: Path
) -> None:
    service.holds_jobs = True
    (tmp_path / "a.jsonl").write_text(ROWS)
    process = _command(service, "submit", "echo", str(tmp_path), "--wait")
    assert process.stdout is not None
    job_id = process.stdout.readline().split()[0]
    progress = process.stdout.readline()
    assert "pending" in progress or "running" in progress
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=90)
    assert process.returncode == 130, stderr
    assert f"job {job_id} continues" in stderr
    assert f"batchmill cancel {job_id}" in stderr
    assert "Traceback" not in stderr
    assert json.loads(run("status", service.only_job(), "--json").stdout)["state"] in ("pending", "running")


def test_watch_in_a_pipe_writes_a_line_at_the_start_and_one_at_the_end(
    service: LiveService, run: Callable[..., Result]
) -> None:
    service.holds_jobs = True
    run("submit", "echo", "-", input=ROWS)
    job_id = service.only_job()
    process = _command(service, "watch", job_id)
    assert process.stdout is not None
    first = process.stdout.readline()
    for rows in range(1, 5):
        service.change(job_id, rows_done=rows)
    service.change(job_id, rows_done=5, state=JobState.COMPLETED)
    rest, _ = process.communicate(timeout=90)
    assert first == f"{job_id} running: 0 of 5 rows\n"
    assert rest.count("\n") == 1
    assert rest.startswith(f"{job_id} completed: 5 rows done")


def test_watch_on_a_terminal_draws_a_bar(service: LiveService, run: Callable[..., Result]) -> None:
    service.holds_jobs = True
    run("submit", "echo", "-", input=ROWS)
    job_id = service.only_job()
    service.change(job_id, rows_done=2, rows_per_second=812.0, eta_s=12.0)
    main_end, process_end = os.openpty()
    process = _command_on(process_end, service, "watch", job_id)
    os.close(process_end)
    shown: list[str] = []
    reader = threading.Thread(target=_read_all, args=(main_end, shown))
    reader.start()
    until(lambda: "812 rows/s, 12 s left" in "".join(shown), "the next line")
    service.change(job_id, rows_done=5, state=JobState.COMPLETED)
    assert process.wait(90) == 0
    reader.join(90)
    assert "2 of 5 rows" in "".join(shown)
    assert f"{job_id} completed: 5 rows done" in "".join(shown)


def _command_on(terminal: int, service: LiveService, *args: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "BATCHMILL_URL": service.url,
        "BATCHMILL_TOKEN": service.token,
        "TERM": "xterm",
        "COLUMNS": "120",
    }
    command = [sys.executable, "-c", "import batchmill.cli; batchmill.cli.main()", *args]
    return subprocess.Popen(command, env=environment, stdin=terminal, stdout=terminal, stderr=terminal)


def _read_all(terminal: int, shown: list[str]) -> None:
    try:
        while data := os.read(terminal, 10_000):
            shown.append(data.decode(errors="replace"))
    except OSError:  # the other end was closed
        pass
    os.close(terminal)


def test_a_line_says_that_the_model_is_being_loaded() -> None:
    out = io.StringIO()
    stages = [StageStatus(operator="embed", name="embed", workers_loading=1)]
    status = JobStatus(id="job-1", state=JobState.RUNNING, operator="embed", stages=stages, created_at=1.0)
    PlainLines(out, SystemClock()).show(status)
    assert "0 of ? rows, embed loads its model" in out.getvalue()
