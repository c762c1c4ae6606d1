"""How long until the work of a killed worker runs elsewhere, beside Celery; and what is computed again."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks.celery_peer import QUIET
from benchmarks.figures import Figure, Report
from benchmarks.recovery_tasks import URL, VISIBILITY_S, make_app
from benchmarks.stack import REPOSITORY, processes, service, start_valkey

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill import Client
    from benchmarks.scale import Scale

NAME = "recovery"
CELERY_VISIBILITY_S = 10.0  # as long as Batchmill's lease; Celery's default is an hour
OPERATORS = "benchmarks.recovery_operators"
SUPERVISORS = 2  # of one process each
SECONDS_A_ROW = 0.002
LIMIT_S = 90.0
POLL_INTERVAL_S = 0.01
PATH = {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


def measure(scale: Scale) -> Report:
    """Batchmill and Celery in turn, `scale.recovery_runs` times over, each time from a fresh start."""
    process, machine, celery, again = [], [], [], []
    for _ in range(scale.recovery_runs):
        with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
            path = Path(folder)
            with processes(path) as run, service(run, 1, SUPERVISORS, operators=OPERATORS, env=PATH) as running:
                process.append(_after_loss(running.client, path / "process", _kill_process))
                again.append(_computed_again(running.client, path / "rows", scale.recovery_rows))
                machine.append(_after_loss(running.client, path / "machine", _kill_machine))
        with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
            celery.append(_celery(Path(folder)))
    figures = [
        Figure("Batchmill, a worker process is killed: until its work runs elsewhere", "s", process),
        Figure("Batchmill, a machine is killed: until its work runs elsewhere", "s", machine),
        Figure("Celery, a worker is killed: until its task runs elsewhere", "s", celery),
        Figure("Batchmill, every worker process killed once: rows computed again", "rows", again),
        Figure("the same, of all rows", "%", [100 * rows / scale.recovery_rows for rows in again]),
    ]
    return Report(NAME, _settings(scale), figures, [], REMARKS)


ABOUT_LOSSES = (
    "A machine is a supervisor with its process: only the lease (10 s, the default) shows its end. The end of a "
    "process is reported by its supervisor."
)
ABOUT_CELERY = (
    "Celery with task_acks_late, without which the task is gone for good, and with the settings that are best for it: "
    f"a visibility timeout of {CELERY_VISIBILITY_S:.0f} s, checked every second. By default it is an hour, checked "
    "every 100 seconds, and the wait is as long. A task that takes longer than the timeout is run twice; a lease "
    "is renewed for as long as its worker lives."
)
ABOUT_ROWS = "Computed again is what was in hand when a process died: it commits shard by shard."
REMARKS = [ABOUT_LOSSES, ABOUT_CELERY, ABOUT_ROWS]


def _settings(scale: Scale) -> dict[str, object]:
    return {
        "runs": scale.recovery_runs,
        "workers": SUPERVISORS,
        "lease": "10 s",
        "Celery's visibility timeout": f"{CELERY_VISIBILITY_S:.0f} s",
        "rows": scale.recovery_rows,
        "ms a row": SECONDS_A_ROW * 1000,
    }


def _after_loss(client: Client, journal: Path, kill: Callable[[psutil.Process], None]) -> float:
    """Seconds from the death of the process that holds a row, until another one has that row."""
    job = client.submit("bench_hold", rows=[{"id": 1}], params={"journal": str(journal)})
    kill(_await_holder(journal))
    took = _await_lines(journal, 2)
    if len(list(job.results())) != 1 or job.wait(LIMIT_S).status().rows_dead:
        raise RuntimeError("the row did not come back once")
    return took


def _computed_again(client: Client, journal: Path, rows: int) -> float:
    """How many rows are computed more than once when each worker process is killed once under a job."""
    params = {"journal": str(journal), "seconds_a_row": SECONDS_A_ROW}
    job = client.submit("bench_count", rows=[{"id": number} for number in range(rows)], params=params)
    for pid in [worker.pid for worker in client.workers()]:
        seen = job.status().rows_done
        _until(lambda seen=seen: job.status().rows_done > seen, "results")
        psutil.Process(pid).kill()
    if [row["id"] for row in job.results()] != list(range(rows)):
        raise RuntimeError("the rows did not come back as they were")
    computed = Counter(journal.read_text().split())
    return float(computed.total() - len(computed))


def _celery(folder: Path) -> float:
    """The same as `_after_loss` for a task of one of two Celery workers."""
    journal = folder / "journal"
    with processes(folder) as run:
        url = f"redis+socket://{start_valkey(run)}?virtual_host=0"
        env = PATH | {URL: url, VISIBILITY_S: str(CELERY_VISIBILITY_S)}
        command = [sys.executable, "-m", "celery", "-A", "benchmarks.recovery_tasks", "worker", *QUIET]
        with closing(make_app(url, CELERY_VISIBILITY_S)) as app:
            for name in ("one", "two"):
                full_command = [*command, "--concurrency", "1", "--hostname", f"{name}@%h"]
                run.start(name, full_command, env, lambda: bool(app.control.inspect(timeout=0.5).ping()))
            _until(lambda: len(app.control.inspect(timeout=2.0).ping() or {}) == 2, "both Celery workers")
            app.tasks["hold"].delay(str(journal))
            _kill_machine(_await_holder(journal))
            return _await_lines(journal, 2)


def _kill_process(holder: psutil.Process) -> None:
    holder.kill()


def _kill_machine(holder: psutil.Process) -> None:
    """Kill a process's parent before it, so that nothing reports its death."""
    parent = holder.parent()
    if parent is None:
        raise RuntimeError("the worker process has no parent")
    parent.kill()
    holder.kill()


def _await_holder(journal: Path) -> psutil.Process:
    """The process that has noted itself first."""
    _await_lines(journal, 1)
    return psutil.Process(int(journal.read_text().split()[0]))


def _await_lines(journal: Path, lines: int) -> float:
    """Return the seconds until the journal has that many lines."""
    return _until(lambda: journal.exists() and len(journal.read_text().split()) >= lines, "the work to begin")


def _until(condition: Callable[[], bool], what: str) -> float:
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > LIMIT_S:
            raise TimeoutError(f"waited {LIMIT_S:.0f} s for {what}")
        time.sleep(POLL_INTERVAL_S)
    return time.perf_counter() - began
