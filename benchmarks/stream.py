"""A stream of Redis: from an entry to its row in the results at 500 rows/s, how fast a backlog is worked off, beside
Bytewax and with files as output, and what many open windows take in Redis.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import redis

import batchmill
from benchmarks.figures import Bar, Figure, Report
from benchmarks.stack import REPOSITORY, processes, service

if TYPE_CHECKING:
    from benchmarks.scale import Scale
    from benchmarks.stack import Service

NAME = "stream"
WORKERS = 1
ROWS_PER_S = 500
WARM_UP_S = 3
DEADLINE_S = 300
PIPELINE = 1000
HAS_PEER = find_spec("bytewax") is not None  # it has no wheel for the latest Python


def measure(scale: Scale) -> Report:
    """All in turn on one service, `scale.runs` times over; the backlog of a run is the same for all."""
    latencies: list[list[float]] = []
    rates: dict[str, list[float]] = {"ours": [], "files": [], "bytewax": []}
    kept: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder,
        processes(Path(folder)) as run,
        service(run, WORKERS) as running,
        redis.Redis(unix_socket_path=str(running.socket)) as server,
    ):
        # First, since the server frees what other runs have left while this is measured.
        kept.append(_kept_mb(running, server, "windows", scale.stream_windows))
        for number in range(scale.runs):
            latencies.append(_latencies_ms(running, server, f"paced-{number}", scale.stream_s))
            key, rows = f"backlog-{number}", scale.stream_rows
            _fill(server, key, rows)
            rates["ours"].append(rows / _took_s(running, key, rows))
            rates["files"].append(rows / _took_s(running, key, rows, Path(folder) / f"out-{number}"))
            if HAS_PEER:
                rates["bytewax"].append(rows / _bytewax_s(running, key, rows, Path(folder) / f"lines-{number}"))
            server.delete(key)
    p50, p99 = ([_percentile(run, share) for run in latencies] for share in (50, 99))
    windows = f"memory of Redis for {scale.stream_windows:,} open windows"
    figures = [
        Figure("XADD to row in the results, median", "ms", p50),
        Figure("XADD to row in the results, 99th percentile", "ms", p99),
        Figure("rows of a backlog through echo", "rows/s", rates["ours"]),
        Figure("rows of a backlog through echo into rolled files", "rows/s", rates["files"]),
        Figure(windows, "MB", kept),
    ]
    bars = [
        Bar("median of the time to a result", statistics.median(p50), "at most", 60, "ms"),
        Bar("99th percentile of it", statistics.median(p99), "at most", 200, "ms"),
        Bar("throughput", statistics.median(rates["ours"]), "at least", 20_000, "rows/s"),
        Bar("throughput into rolled files", statistics.median(rates["files"]), "at least", 20_000, "rows/s"),
        Bar(windows, kept[0], "below", 50, "MB"),
    ]
    if HAS_PEER:
        figures.append(Figure("rows of a backlog: Bytewax, into a file of JSON lines", "rows/s", rates["bytewax"]))
        over = statistics.median(rates["ours"]) / statistics.median(rates["bytewax"])
        bars.append(Bar("throughput over that of Bytewax", over, "at least", 2, "x"))
    return Report(
        NAME,
        {"rows_per_s": ROWS_PER_S, "seconds": scale.stream_s, "backlog": scale.stream_rows, "workers": WORKERS},
        figures,
        bars,
        [
            "The results are read by a client over HTTP, with results(follow=True).",
            "Files are measured until the job is drained and its last file is written.",
            "Bytewax runs in one process without recovery, and is measured without its start.",
        ],
    )


def _latencies_ms(running: Service, server: Any, key: str, seconds: float) -> list[float]:
    """Send rows at a steady rate, and return how long each took until a client had its result."""
    count = round((WARM_UP_S + seconds) * ROWS_PER_S)
    stream = running.client.submit("echo", source=batchmill.RedisStream(key))
    sender = threading.Thread(target=_send, args=(server, key, count))
    sender.start()
    took: list[float] = []
    for row in stream.results():
        took.append((time.time() - float(row["sent"])) * 1000)
        if len(took) == count:
            break
    sender.join()
    stream.cancel()
    return took[WARM_UP_S * ROWS_PER_S :]


def _send(server: Any, key: str, count: int) -> None:
    began = time.monotonic()
    for number in range(count):
        time.sleep(max(began + number / ROWS_PER_S - time.monotonic(), 0.0))
        server.xadd(key, {"n": number, "sent": repr(time.time())})


def _took_s(running: Service, key: str, rows: int, output: Path | None = None) -> float:
    """Work a backlog off, and return how long it took. output: a folder for files, which are complete then."""
    began = time.monotonic()
    source = batchmill.RedisStream(key, trim=False)
    stream = running.client.submit("echo", source=source, output=None if output is None else str(output))
    _wait_for(stream, rows)
    if output is not None:
        stream.drain()
        stream.wait(DEADLINE_S)
    took_s = time.monotonic() - began
    if output is None:
        stream.cancel()
    elif (written := sum(pq.read_metadata(file).num_rows for file in output.iterdir())) != rows:
        raise RuntimeError(f"the files have {written:,} rows, not {rows:,}")
    return took_s


def _bytewax_s(running: Service, key: str, rows: int, target: Path) -> float:
    """Work the same backlog off with Bytewax, and return how long it took."""
    command = [sys.executable, "-m", "benchmarks.stream_bytewax", str(running.socket), key, str(rows), str(target)]
    env = {**os.environ, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=DEADLINE_S)
    with target.open("rb") as file:
        written = sum(1 for _ in file)
    if written != rows:
        raise RuntimeError(f"Bytewax has written {written:,} rows, not {rows:,}")
    return float(done.stdout.split()[-1])


def _kept_mb(running: Service, server: Any, key: str, windows: int) -> float:
    """Open windows, and return how much memory of Redis they take, with all that the service keeps of their job."""
    before = server.info("memory")["used_memory"]
    _fill(server, key, windows)
    window = batchmill.Window(by="n", time="at", tumbling="1h", aggregate={"rows": "count", "first": "min:text"})
    stream = running.client.submit(
        stages=[batchmill.Stage("echo"), window], source=batchmill.RedisStream(key, types={"at": "float64"})
    )
    _wait_for(stream, windows)
    found: int = server.info("memory")["used_memory"] - before - (server.memory_usage(key, samples=0) or 0)
    stream.cancel()
    return found / 1e6


def _fill(server: Any, key: str, rows: int) -> None:
    for first in range(0, rows, PIPELINE):
        pipe = server.pipeline(transaction=False)
        for number in range(first, min(first + PIPELINE, rows)):
            pipe.xadd(
                key, {"n": number, "at": 1_800_000_000, "text": f"row {number} of a stream that was filled before"}
            )
        pipe.execute()


def _wait_for(stream: batchmill.Job, settled: int) -> None:
    """Wait until the last stage has settled that many rows of a stream."""
    began = time.monotonic()
    while (done := stream.status().stages[-1].rows_done) < settled:
        if time.monotonic() - began > DEADLINE_S:
            raise RuntimeError(f"only {done:,} of {settled:,} rows are done after {DEADLINE_S} s")
        time.sleep(0.05)


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]
