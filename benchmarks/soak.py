"""An hour of a stream with windows and an output, and of small jobs beside it: what every process takes in memory.

It is measured on request only, `--only soak`, since it takes its time on any machine.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import redis

import batchmill
from benchmarks.figures import Bar, Figure, Report
from benchmarks.memory import own_memory
from benchmarks.stack import processes, service

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.scale import Scale
    from benchmarks.stack import Service

NAME = "soak"
WORKERS = 1
ROWS_PER_S = 100
USERS = 200
MAX_ENTRIES = 20_000  # of the stream: older ones go
KEPT_S = 120  # results
ROLL_S = 60
LOOK_EVERY_S = 5.0
JOB_EVERY_S = 5.0
JOB_ROWS = 100
MB = 1e6


def measure(scale: Scale) -> Report:
    """Send rows at a steady rate for `scale.soak_s`, and look at all processes."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder,
        processes(Path(folder)) as run,
        service(run, WORKERS) as running,
        redis.Redis(unix_socket_path=str(running.socket)) as server,
    ):
        seen = _watch(running, server, Path(folder) / "out", scale.soak_s)
    growth = {name: _growth(values) for name, values in seen.items()}
    worst = max(after / before for before, after in growth.values())
    figures = [
        figure
        for name, (before, after) in sorted(growth.items())
        for figure in (
            Figure(f"{name}, second quarter", "MB", [before / MB]),
            Figure(f"{name}, last quarter", "MB", [after / MB]),
        )
    ]
    return Report(
        NAME,
        {"seconds": scale.soak_s, "rows_per_s": ROWS_PER_S, "users": USERS, "job_every_s": JOB_EVERY_S},
        figures,
        [Bar("the last quarter over the second one, the worst process", worst, "at most", 1.1, "x")],
        [
            "Medians of the memory of its own, without pages of mapped files; of Valkey also what it has allocated.",
            f"A stream of {ROWS_PER_S} rows/s through `echo` and windows of 10 s; its output gets a file each minute.",
            f"Beside it a job of {JOB_ROWS} rows every {JOB_EVERY_S:g} s, which is deleted when it is done.",
        ],
    )


def _watch(running: Service, server: redis.Redis, output: Path, seconds: float) -> dict[str, list[float]]:
    """Return the memory of each process over the time, in bytes."""
    window = batchmill.Window(
        by="user", time="at", tumbling="10s", idle="5s", aggregate={"rows": "count", "n": "max:n"}
    )
    stream = running.client.submit(
        stages=[batchmill.Stage("echo"), window],
        source=batchmill.RedisStream("soak", keep_results_s=KEPT_S, types={"at": "float64", "n": "int64"}),
        output={"path": str(output), "roll_s": ROLL_S},
    )
    ended = threading.Event()
    workers = [
        threading.Thread(target=_send, args=(server, ended)),
        threading.Thread(target=_submit_small, args=(running.client, ended)),
    ]
    for one in workers:
        one.start()
    seen: dict[str, list[float]] = defaultdict(list)
    ends_at = time.monotonic() + seconds
    try:
        while time.monotonic() < ends_at:
            for name, size in _memory().items():
                seen[name].append(size)
            seen["valkey, allocated"].append(float(server.info("memory")["used_memory"]))
            time.sleep(LOOK_EVERY_S)
    finally:
        ended.set()
        for one in workers:
            one.join()
    status = stream.status()
    if status.is_final or status.rows_done < 0.9 * seconds * ROWS_PER_S:
        raise RuntimeError(f"the stream is {status.state} with {status.rows_done:,} rows")
    stream.cancel()
    return seen


def _send(server: redis.Redis, ended: threading.Event) -> None:
    began, number = time.monotonic(), 0
    while not ended.wait(max(began + number / ROWS_PER_S - time.monotonic(), 0.0)):
        fields = {"n": number, "user": f"user {number % USERS}", "at": repr(time.time())}
        server.xadd("soak", fields, maxlen=MAX_ENTRIES, approximate=True)
        number += 1


def _submit_small(client: batchmill.Client, ended: threading.Event) -> None:
    rows = [{"n": number} for number in range(JOB_ROWS)]
    while not ended.wait(JOB_EVERY_S):
        job = client.submit("echo", rows=rows).wait(60)
        job.delete()


def _memory() -> dict[str, float]:
    """Return the memory of each process of the service, in bytes, those of one kind together."""
    found: dict[str, float] = defaultdict(float)
    for one in psutil.Process().children(recursive=True):
        try:
            found[_kind(one.cmdline())] += own_memory(one)
        except psutil.Error:
            continue  # it has just ended
    return found


def _kind(command: list[str]) -> str:
    text = " ".join(command)
    kinds: dict[str, Callable[[str], bool]] = {
        "valkey": lambda line: "valkey" in line and "batchmill" not in line,
        "inspectors": lambda line: "inspection" in line,
        "coordinator": lambda line: "batchmill coordinator" in line,
        "worker": lambda line: "batchmill worker" in line,
    }
    return next((name for name, fits in kinds.items() if fits(text)), "processes of workers")


def _growth(values: list[float]) -> tuple[float, float]:
    """Return the medians of the second and of the last quarter."""
    quarter = max(len(values) // 4, 1)
    return statistics.median(values[quarter : 2 * quarter] or values), statistics.median(values[-quarter:])
