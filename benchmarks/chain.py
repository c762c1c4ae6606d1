"""A job of three stages that do nothing, together and apart, beside one job of one stage and three jobs by hand."""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchmill import Stage
from benchmarks.figures import Bar, Figure, Report
from benchmarks.stack import processes, service

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill import Client, Job
    from benchmarks.scale import Scale

NAME = "chain"
WORKERS = 2
STAGES = 3
FEW_ROWS = 100
TEXT_BYTES = 200
ASKS = 20  # of few rows, a run
BUFFER_BYTES = 4 * 1024 * 1024
LOOK_INTERVAL_S = 0.02

ONE, CHAIN, BY_HAND = "one job of one stage", "a chain of three stages", "three jobs by hand"
APART = "a chain of three stages that run apart"


def measure(scale: Scale) -> Report:
    """All of them in turn on one service, `scale.runs` times over."""
    large: dict[str, list[float]] = {ONE: [], CHAIN: [], APART: [], BY_HAND: []}
    few: dict[str, list[float]] = {ONE: [], CHAIN: [], APART: []}
    first, peak = list[float](), list[float]()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        client = stack.enter_context(service(stack.enter_context(processes(folder)), WORKERS)).client
        source = folder / "in.parquet"
        rows = scale.rows // 10
        pq.write_table(_table(rows), source)
        ask = {ONE: lambda: _run(client, 1, source=source), CHAIN: lambda: _run(client, STAGES, source=source)}
        ask[APART] = lambda: _run(client, STAGES, source=source, fuse=False)
        ask[BY_HAND] = lambda: _by_hand(client, source, Path(tempfile.mkdtemp(dir=folder)))
        for do in ask.values():
            do()
            do()  # stages run together once their cost is known
        for number in range(scale.runs):
            for name, do in ask.items():
                large[name].append(_timed(do))
            few[ONE].append(_few(client, 1))
            few[CHAIN].append(_few(client, STAGES))
            few[APART].append(_few(client, STAGES, fuse=False))
            begun, most = _watched(client, source, folder / f"watched-{number}")
            first.append(begun)
            peak.append(most / BUFFER_BYTES)
    figures = [
        *(Figure(f"{name}, {rows:,} rows", "s", took) for name, took in large.items()),
        *(Figure(f"{name}, {FEW_ROWS} rows, median", "ms", took) for name, took in few.items()),
        Figure("first result of the chain", "s", first),
        Figure("most bytes between two stages, over the buffer of 4 MiB", "x", peak),
    ]
    typical = {name: statistics.median(took) for name, took in large.items()}
    bars = [
        Bar(f"chain over one job, {rows:,} rows", typical[CHAIN] / typical[ONE], "at most", 1.3, "x"),
        Bar(f"chain over one job, {FEW_ROWS} rows", _ratio(few), "at most", 1.6, "x"),
    ]
    settings = {"rows": rows, "few_rows": FEW_ROWS, "text_bytes": TEXT_BYTES, "runs": scale.runs, "workers": WORKERS}
    remarks = [
        f"{STAGES} jobs by hand over one: {typical[BY_HAND] / typical[ONE]:.1f}x; each waits for the one before."
    ]
    return Report(NAME, settings, figures, bars, remarks)


def _ratio(few: dict[str, list[float]]) -> float:
    return statistics.median(few[CHAIN]) / statistics.median(few[ONE])


def _table(rows: int) -> pa.Table:
    return pa.table({"id": range(rows), "text": ["x" * TEXT_BYTES] * rows})


def _stages(count: int, **options: Any) -> list[Stage]:
    return [Stage("echo", name=f"echo {number}", **options) for number in range(count)]


def _run(client: Client, stages: int, **given: Any) -> Job:
    return client.submit(stages=_stages(stages), **given).wait(600)


def _by_hand(client: Client, source: Path, folder: Path) -> None:
    for number in range(STAGES):
        target = folder / str(number)
        client.submit("echo", source={"path": source, "format": "parquet"}, output=target).wait(600)
        source = target


def _timed(do: Callable[[], Any]) -> float:
    began = time.perf_counter()
    do()
    return time.perf_counter() - began


def _few(client: Client, stages: int, **given: Any) -> float:
    rows = _table(FEW_ROWS)
    return statistics.median(_timed(lambda: _run(client, stages, rows=rows, **given)) * 1000 for _ in range(ASKS))


def _watched(client: Client, source: Path, folder: Path) -> tuple[float, float]:
    """Seconds to the first committed result of a chain, and the most bytes that waited behind a stage."""
    began = time.perf_counter()
    job = client.submit(stages=_stages(STAGES, buffer=BUFFER_BYTES), source=source, output=folder, fuse=False)
    first, most = 0.0, 0
    pause = threading.Event()
    while True:
        status = job.status()
        if not first and status.rows_done:
            first = time.perf_counter() - began
        most = max(most, *(stage.buffered_bytes for stage in status.stages))
        if status.is_final:
            return first, most
        pause.wait(LOOK_INTERVAL_S)
