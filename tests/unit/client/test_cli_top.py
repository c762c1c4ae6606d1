"""`batchmill top` and `batchmill logs`, on a pseudo-terminal and in a pipe."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import threading
import time
from typing import TYPE_CHECKING, Self, cast

import pytest
from rich.console import Console

from batchmill.cli.terminal.overview import Overview
from batchmill.cli.top import screen
from batchmill.client import Client
from batchmill.errors import ServiceUnavailable
from batchmill.fleet import PoolStatus
from batchmill.jobs.job import JobState
from batchmill.jobs.job_log import LogEntry, LogEvent, LogLevel, LogPage
from support.fault_proxy import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from click.testing import Result

    from support.live_service import LiveService

WAIT_S = 90
COUNTS = {"workers": 1, "capacity": 2, "jobs": 1, "shards_queued": 3, "shards_running": 2, "shards_waiting": 4}
POOL = PoolStatus(name="default", **COUNTS, rows_waiting=12_345, oldest_queued_s=1.5)
SCREEN_ON, SCREEN_OFF, CURSOR_ON = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h"


@pytest.fixture
def job(service: LiveService, monkeypatch: pytest.MonkeyPatch) -> str:
    """A job that runs, in a pool with much to do."""
    service.holds_jobs = True
    monkeypatch.setattr(service.service.backlog, "pools", lambda: [POOL])
    with Client(service.url, service.token) as client:
        job_id = client.submit("echo", rows=[{"id": n} for n in range(5)], name="[bold]mine").id
    service.begun(job_id)
    service.change(job_id, rows_total=2000, rows_done=1000, eta_s=10.0, eta_low_s=8.0, eta_high_s=15.0)
    return job_id


class Terminal:
    """A command on a pseudo-terminal of 40 lines."""

    def __init__(self, service: LiveService, *args: str) -> None:
        self.master, slave = pty.openpty()
        termios.tcsetwinsize(slave, (40, 160))
        self.before = termios.tcgetattr(slave)
        environment = os.environ | {"BATCHMILL_URL": service.url, "BATCHMILL_TOKEN": service.token, "TERM": "xterm"}
        command = [sys.executable, "-c", "import batchmill.cli; batchmill.cli.main()", *args]
        self.process = subprocess.Popen(
            command, env=environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        self.slave = slave
        self.seen = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for file in (self.master, self.slave):
            os.close(file)

    def read_until(self, wanted: bytes) -> None:
        ends_at = time.monotonic() + WAIT_S
        while wanted not in self.seen:
            assert time.monotonic() < ends_at, self.seen
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 65536)

    def end(self) -> int:
        """Its exit code, once all it wrote is read."""
        self.read_until(SCREEN_OFF)
        code = self.process.wait(WAIT_S)
        while select.select([self.master], [], [], 0.05)[0]:
            self.seen += os.read(self.master, 65536)
        return code


def text_of(seen: bytes) -> str:
    return re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", seen).decode()


def test_top_is_shown_anew_on_a_terminal_until_q_which_leaves_it_as_it_was(service: LiveService, job: str) -> None:
    with Terminal(service, "top", "--interval", "0.2") as terminal:
        terminal.read_until(b"1,000")
        assert SCREEN_ON in terminal.seen
        shown = text_of(terminal.seen)
        for told in (job, "[bold]mine", "12,345", "cpu0@here"):
            assert told in shown
        assert "10 s (8.0 s to 15 s)" in shown
        service.change(job, rows_done=1500)
        terminal.read_until(b"1,500")
        os.write(terminal.master, b"q")
        assert terminal.end() == 0
        assert CURSOR_ON in terminal.seen
        assert termios.tcgetattr(terminal.slave) == terminal.before


def test_ctrl_c_ends_top_and_restores_the_terminal(service: LiveService, job: str) -> None:
    with Terminal(service, "top") as terminal:
        terminal.read_until(job.encode())
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 0
        assert termios.tcgetattr(terminal.slave) == terminal.before


def test_a_service_that_hangs_or_is_away_keeps_nobody_from_leaving(service: LiveService, job: str) -> None:
    with Terminal(service, "top", "--interval", "0.2") as terminal:
        terminal.read_until(job.encode())
        service.run(service.proxy.close())
        try:
            os.write(terminal.master, b"q")
            assert terminal.end() == 0
        finally:
            service.run(service.proxy.open())


def test_a_service_that_is_away_is_told_and_asked_again() -> None:
    class Away:
        def live_jobs(self, _limit: int) -> None:
            raise ServiceUnavailable("it is away.")

    shown = io.StringIO()
    Console(file=shown).print(screen(cast("Client", Away()), 10, 80, 24))
    assert "it is away." in shown.getvalue()
    assert "Retrying; q to quit." in shown.getvalue()


def test_a_terminated_top_restores_the_terminal_too(service: LiveService, job: str) -> None:
    with Terminal(service, "top") as terminal:
        terminal.read_until(job.encode())
        terminal.process.terminate()
        assert terminal.end() == 128 + signal.SIGTERM
        assert termios.tcgetattr(terminal.slave) == terminal.before


def test_in_a_pipe_top_is_one_plain_look(run: Callable[..., Result], job: str) -> None:
    done = run("top")
    assert done.exit_code == 0
    pools, jobs, workers = done.stdout.split("\n\n")
    assert pools.splitlines()[1].split("\t") == ["default", "1", "", "2 of 2", "3", "4", "12,345", "1.5 s", "1"]
    assert jobs.splitlines()[1].split("\t")[:3] == [job, "running", "[bold]mine"]
    # The worker may have said last that it was busy, in the test before.
    assert re.match(r"cpu0@here\tdefault\tcpu\t[01] of 1", workers.splitlines()[1])
    assert "\x1b" not in done.stdout


def test_top_as_json_is_one_object(run: Callable[..., Result], job: str) -> None:
    done = run("top", "--json")
    (line,) = done.stdout.splitlines()
    shown = Overview.model_validate_json(line)
    assert [one.id for one in shown.jobs] == [job]
    assert (shown.pools[0].rows_waiting, shown.workers[0].name) == (12_345, "cpu0@here")


def test_ended_jobs_stand_behind_those_that_run(run: Callable[..., Result], service: LiveService, job: str) -> None:
    with Client(service.url, service.token) as client:
        ended = client.submit("echo", rows=[{"id": 1}]).id
    service.change(ended, state=JobState.COMPLETED)
    service.ended(ended)
    assert [one["id"] for one in json.loads(run("top", "--json").stdout)["jobs"]] == [job, ended]
    assert [one["id"] for one in json.loads(run("top", "--json", "--limit", "1").stdout)["jobs"]] == [job]


def test_what_does_not_fit_on_the_screen_is_counted() -> None:
    pool = {"workers": 0, "capacity": 0, "jobs": 0, "shards_queued": 0, "shards_running": 0, "shards_waiting": 0}
    pools = [PoolStatus(name=f"pool-{n}", rows_waiting=0, **pool) for n in range(50)]
    shown = Overview(at=0.0, jobs=[], pools=pools, workers=[])
    for height in (1, 10, 24, 100):
        grids = list(shown.lines(80, height))
        assert sum(len(rows) + 2 for _, _, rows in grids) + 1 <= max(height, 10)
    title, _, rows = next(iter(shown.lines(80, 24)))
    assert title == f"pools  (and {50 - len(rows)} more)"


ENTRIES = [
    LogEntry(id="1000-0", at=1.0, level=LogLevel.INFO, event=LogEvent.STARTED, message="its first shards are planned"),
    LogEntry(
        id="2000-0",
        at=2.0,
        level=LogLevel.WARNING,
        event=LogEvent.REQUEUED,
        message="ValueError: no",
        worker="cpu0@here",
        shard="17.0",
        attempt=2,
        traceback="Traceback\n  line",
    ),
]


def log_page(*entries: LogEntry, is_final: bool) -> Fault:
    """The next answer for a job's log."""
    page = LogPage(entries=list(entries), next=entries[-1].id if entries else "2000-0", dropped=0, is_final=is_final)
    return Fault("GET", "/log", answer=(200, page.model_dump_json()))


def test_logs_tell_what_happened_where_and_tracebacks_on_request(
    run: Callable[..., Result], service: LiveService, job: str
) -> None:
    service.faults += [log_page(*ENTRIES, is_final=False)] * 3
    lines = run("logs", job).stdout.splitlines()
    assert len(lines) == 2
    assert lines[1].endswith("warning requeued [cpu0@here, shard 17.0, attempt 2]: ValueError: no")
    assert run("logs", job, "-v").stdout.splitlines()[2:] == ["    Traceback", "      line"]
    assert [json.loads(line)["id"] for line in run("logs", job, "--json").stdout.splitlines()] == ["1000-0", "2000-0"]


def test_logs_are_followed_until_the_job_has_ended(
    run: Callable[..., Result], service: LiveService, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchmill.client.job.LOG_INTERVAL_S", 0.01)
    late = ENTRIES[1].model_copy(update={"id": "3000-0", "message": "late"})
    service.faults += [
        log_page(ENTRIES[0], is_final=False),
        log_page(is_final=False),
        log_page(ENTRIES[1], is_final=True),
        log_page(late, is_final=True),
    ]
    lines = run("logs", job, "--follow").stdout.splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["its first shards are planned", "no", "late"]


@pytest.mark.parametrize("interval_s", [0.0, 3600.0])
def test_an_error_that_goes_on_is_counted_while_the_log_is_followed(
    run: Callable[..., Result], service: LiveService, job: str, monkeypatch: pytest.MonkeyPatch, interval_s: float
) -> None:
    monkeypatch.setattr("batchmill.client.job.LOG_INTERVAL_S", 0.01)
    monkeypatch.setattr("batchmill.cli.logs.REPEATS_INTERVAL_S", interval_s)
    again = [ENTRIES[1].model_copy(update={"id": f"{n}000-0"}) for n in range(3, 6)]
    service.faults += [
        log_page(ENTRIES[1], again[0], is_final=False),
        log_page(is_final=False),
        log_page(*again[1:], is_final=True),
        log_page(is_final=True),
    ]
    lines = [line.strip() for line in run("logs", job, "--follow").stdout.splitlines()[1:]]
    counted = ["1 more attempt, same error"] if interval_s == 0 else []
    assert lines == [*counted, "3 more attempts, same error"]


def test_the_log_of_an_unknown_job_is_an_error(run: Callable[..., Result]) -> None:
    done = run("logs", "job-nowhere")
    assert done.exit_code == 2
    assert "job-nowhere" in done.stderr


def test_a_progress_line_tells_the_range_and_the_dead_by_error(
    run: Callable[..., Result], service: LiveService, job: str
) -> None:
    timer = threading.Timer(0.5, service.change, (job,), {"state": JobState.COMPLETED})
    service.change(job, rows_dead=3, dead_by_error={"ValueError": 2, "too_large": 1}, rows_per_second=100.0)
    timer.start()
    lines = run("watch", job).stdout.splitlines()
    timer.join()
    assert lines[0] == (
        f"{job} running: 1,003 of 2,000 rows (3 failed), 100 rows/s, 10 s left (8.0 s to 15 s), "
        "failed: ValueError 2, too_large 1"
    )
    assert "; 3 rows failed: ValueError 2, too_large 1 (not in the results)" in lines[-1]
