"""A stream of Redis: from an entry to its row in the results at 500 rows/s, and how fast a backlog is worked off."""

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
    with (
        tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder,
        processes(Path(folder)) as run,
        service(run, WORKERS) as running,
        redis.Redis(unix_socket_path=str(running.socket)) as server,
    ):
        for number in range(scale.runs):
            latencies.append(_latencies_ms(running, server, f"paced-{number}", scale.stream_s))
            rates.append(_rows_per_s(running, server, f"backlog-{number}", scale.stream_rows))
    p50, p99 = ([_percentile(run, share) for run in latencies] for share in (50, 99))
    return Report(
        NAME,
        {"rows_per_s": ROWS_PER_S, "seconds": scale.stream_s, "backlog": scale.stream_rows, "workers": WORKERS},
        [
            Figure("XADD to row in the results, median", "ms", p50),
            Figure("XADD to row in the results, 99th percentile", "ms", p99),
            Figure("rows of a backlog through echo", "rows/s", rates),
        ],
        [
            Bar("median of the time to a result", statistics.median(p50), "at most", 60, "ms"),
            Bar("99th percentile of it", statistics.median(p99), "at most", 200, "ms"),
            Bar("throughput", statistics.median(rates), "at least", 20_000, "rows/s"),
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
    for first in range(0, rows, PIPELINE):
        pipe = server.pipeline(transaction=False)
        for number in range(first, min(first + PIPELINE, rows)):
            pipe.xadd(key, {"n": number, "text": f"row {number} of a stream that was filled before"})
        pipe.execute()
    began = time.monotonic()
    stream = running.client.submit("echo", source=batchmill.RedisStream(key))
    while (status := stream.status()).rows_done < rows:
        if time.monotonic() - began > DEADLINE_S:
            raise RuntimeError(f"only {status.rows_done:,} of {rows:,} rows are done after {DEADLINE_S} s")
        time.sleep(0.05)
    took_s = time.monotonic() - began
    stream.cancel()
    return rows / took_s


def _percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]
