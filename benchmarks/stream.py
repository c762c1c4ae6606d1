"""A stream of Redis: from an entry to its row in the results at 500 rows/s, how fast a backlog is worked off, and what
many open windows take in Redis.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

import batchmill
from benchmarks.figures import Bar, Figure, Report
from benchmarks.stack import processes, service

if TYPE_CHECKING:
    from benchmarks.scale import Scale
    from benchmarks.stack import Service

NAME = "stream"
WORKERS = 1
ROWS_PER_S = 500
WARM_UP_S = 3
DEADLINE_S = 300
PIPELINE = 1000


def measure(scale: Scale) -> Report:
    """Both in turn on one service, `scale.runs` times over."""
    latencies: list[list[float]] = []
    rates: list[float] = []
    kept: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder,
        processes(Path(folder)) as run,
        service(run, WORKERS) as running,
        redis.Redis(unix_socket_path=str(running.socket)) as server,
    ):
        for number in range(scale.runs):
            latencies.append(_latencies_ms(running, server, f"paced-{number}", scale.stream_s))
            rates.append(_rows_per_s(running, server, f"backlog-{number}", scale.stream_rows))
        kept.append(_kept_mb(running, server, "windows", scale.stream_windows))
    p50, p99 = ([_percentile(run, share) for run in latencies] for share in (50, 99))
    return Report(
        NAME,
        {"rows_per_s": ROWS_PER_S, "seconds": scale.stream_s, "backlog": scale.stream_rows, "workers": WORKERS},
        [
            Figure("XADD to row in the results, median", "ms", p50),
            Figure("XADD to row in the results, 99th percentile", "ms", p99),
            Figure("rows of a backlog through echo", "rows/s", rates),
            Figure(f"memory of Redis for {scale.stream_windows:,} open windows", "MB", kept),
        ],
        [
            Bar("median of the time to a result", statistics.median(p50), "at most", 60, "ms"),
            Bar("99th percentile of it", statistics.median(p99), "at most", 200, "ms"),
            Bar("throughput", statistics.median(rates), "at least", 20_000, "rows/s"),
            Bar(f"memory of Redis for {scale.stream_windows:,} open windows", kept[0], "below", 50, "MB"),
        ],
        ["The results are read by a client over HTTP, with results(follow=True)."],
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


def _rows_per_s(running: Service, server: Any, key: str, rows: int) -> float:
    """Work a backlog off, and return how fast."""
    _fill(server, key, rows)
    began = time.monotonic()
    stream = running.client.submit("echo", source=batchmill.RedisStream(key))
    _wait_for(stream, rows)
    took_s = time.monotonic() - began
    stream.cancel()
    return rows / took_s


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
