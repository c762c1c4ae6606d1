"""A one-row job on a warm service, from submit to its result, beside bare Celery's `delay().get()`."""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.celery_peer import celery_peer
from benchmarks.figures import Bar, Figure, Report
from benchmarks.stack import processes, service

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill import Client
    from benchmarks.scale import Scale

NAME = "one_row_latency"
WORKERS = 1
WARM_UP = 30

BATCHMILL, PREFORK, THREADS = "Batchmill", "Celery, prefork", "Celery, threads"


def measure(scale: Scale) -> Report:
    """All three in turn on one Valkey, `scale.runs` times over."""
    took: dict[str, list[list[float]]] = {BATCHMILL: [], PREFORK: [], THREADS: []}
    with ExitStack() as stack:
        contenders = _contenders(stack)
        for ask in contenders.values():
            timed(ask, WARM_UP)
        for _ in range(scale.runs):
            for name, ask in contenders.items():
                took[name].append(timed(ask, scale.asks))
    figures = [figure for name in took for figure in _figures(name, took[name])]
    settings = {"asks_a_run": scale.asks, "runs": scale.runs, "workers": WORKERS}
    return Report(NAME, settings, figures, [_bar(took)])


def _contenders(stack: ExitStack) -> dict[str, Callable[[dict[str, Any]], Any]]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
    run = stack.enter_context(processes(folder))
    running = stack.enter_context(service(run, WORKERS))
    prefork = stack.enter_context(celery_peer(run, running.socket, 1, "prefork", WORKERS))
    threads = stack.enter_context(celery_peer(run, running.socket, 2, "threads", WORKERS))
    return {BATCHMILL: lambda row: one(running.client, row), PREFORK: prefork.one, THREADS: threads.one}


def one(client: Client, row: dict[str, Any]) -> Any:
    """A row through a job of its own."""
    (back,) = client.submit("echo", rows=[row]).results()
    return back


def timed(ask: Callable[[dict[str, Any]], Any], times: int) -> list[float]:
    """The milliseconds each ask took."""
    found = []
    for number in range(times):
        row = {"id": number, "text": f"row {number}"}
        began = time.perf_counter()
        back = ask(row)
        found.append((time.perf_counter() - began) * 1000)
        if back != row:
            raise RuntimeError(f"expected {row}, got {back}")
    return found


def _figures(name: str, runs: list[list[float]]) -> list[Figure]:
    tenths = [statistics.quantiles(run, n=10)[-1] for run in runs]
    return [Figure(f"{name}, median", "ms", _medians(runs)), Figure(f"{name}, 90th percentile", "ms", tenths)]


def _bar(took: dict[str, list[list[float]]]) -> Bar:
    typical = {name: statistics.median(_medians(runs)) for name, runs in took.items()}
    celery = min(typical[PREFORK], typical[THREADS])
    return Bar("median over the faster Celery's median", typical[BATCHMILL] / celery, "at most", 10, "x", target=5)


def _medians(runs: list[list[float]]) -> list[float]:
    return [statistics.median(run) for run in runs]
