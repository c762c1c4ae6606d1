"""Rows through `echo`, from submit to the last row in the client's hands, beside Celery and Ray Data."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import batchmill
from benchmarks import corpora
from benchmarks.celery_peer import celery_peer
from benchmarks.figures import Bar, Figure, Report
from benchmarks.ray_peer import RaySetting, ray_peer
from benchmarks.stack import processes, start_valkey

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from benchmarks.ray_peer import RayPeer
    from benchmarks.scale import Scale

NAME = "echo_million"
WORKERS = 2
ROWS_FORM = RaySetting(WORKERS, None)
"""For dicts Ray spends its time on making and reading them, whatever the size of its batches."""

BATCHMILL, CELERY, CELERY_IGNORED, RAY = "Batchmill", "Celery, a task a row", "Celery, results ignored", "Ray Data"
BATCHMILL_ROWS, RAY_ROWS = "Batchmill, dicts in and out", "Ray Data, dicts in and out"


@dataclass(frozen=True, slots=True)
class Contender:
    """One way of doing it; `run` gives the seconds it took for `rows` rows."""

    name: str
    rows: int
    run: Callable[[], float]
    note: str = ""


def measure(scale: Scale) -> Report:
    """All contenders in turn, `scale.runs` times over."""
    table = corpora.table(scale.rows)
    with ExitStack() as stack:
        contenders = _contenders(stack, table, scale)
        for contender in contenders:
            contender.run()  # warms up
        speeds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
        for _ in range(scale.runs):
            for contender in contenders:
                speeds[contender.name].append(contender.rows / contender.run())
    figures = [Figure(one.name, "rows/s", speeds[one.name], one.note) for one in contenders]
    settings = {"rows": scale.rows, "celery_rows": scale.celery_rows, "runs": scale.runs, "workers": WORKERS}
    return Report(NAME, settings, figures, _bars(figures), _remarks(figures, scale))


def _contenders(stack: ExitStack, table: pa.Table, scale: Scale) -> list[Contender]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
    client = stack.enter_context(batchmill.local(workers=WORKERS))
    run = stack.enter_context(processes(folder))
    celery = stack.enter_context(celery_peer(run, start_valkey(run), 0, "prefork", WORKERS))
    ray = stack.enter_context(ray_peer(folder / "ray", WORKERS))
    rows, few = corpora.dicts(scale.dict_rows), corpora.dicts(scale.celery_rows)
    best = ray.best_setting(table)
    return [
        Contender(BATCHMILL, scale.rows, lambda: echo_table(client, table)),
        Contender(CELERY, scale.celery_rows, lambda: celery.with_results(few)),
        Contender(RAY, scale.rows, lambda: ray.table(table, best), f"the best of several settings: {best}"),
        Contender(CELERY_IGNORED, scale.celery_rows, lambda: celery.without_results(few)),
        Contender(BATCHMILL_ROWS, scale.dict_rows, lambda: echo_rows(client, rows)),
        Contender(RAY_ROWS, scale.dict_rows, lambda: _ray_rows(ray, rows)),
    ]


def echo_table(client: batchmill.Client, table: pa.Table) -> float:
    """A table in, a table in the client's hands; seconds."""
    began = time.perf_counter()
    back = client.submit("echo", rows=table).to_table()
    took = time.perf_counter() - began
    if not back.combine_chunks().equals(table.combine_chunks()):
        raise RuntimeError("Batchmill did not give the rows back as they were")
    return took


def echo_rows(client: batchmill.Client, rows: list[dict[str, Any]]) -> float:
    """A list of dicts in, a list of dicts in the client's hands; seconds."""
    began = time.perf_counter()
    back = list(client.submit("echo", rows=rows).results())
    took = time.perf_counter() - began
    if back != rows:
        raise RuntimeError("Batchmill did not give the rows back as they were")
    return took


def _ray_rows(ray: RayPeer, rows: list[dict[str, Any]]) -> float:
    return ray.rows(rows, ROWS_FORM)


def _bars(figures: list[Figure]) -> list[Bar]:
    speed = {figure.name: figure.median for figure in figures}
    celery = speed[BATCHMILL] / speed[CELERY]
    ray = speed[BATCHMILL] / speed[RAY]
    rows = speed[BATCHMILL_ROWS] / speed[RAY_ROWS]
    return [
        Bar("rows/s over Celery with a task a row", celery, "at least", 300, "x"),
        Bar("rows/s over Ray Data, tables", ray, "at least", 5, "x", target=10),
        Bar("rows/s over Ray Data, dicts", rows, "at least", 5, "x", target=10),
    ]


def _remarks(figures: list[Figure], scale: Scale) -> list[str]:
    celery = next(figure for figure in figures if figure.name == CELERY)
    minutes = scale.rows / celery.median / 60
    return [
        f"Celery ran {scale.celery_rows:,} rows; at its pace, {scale.rows:,} would take {minutes:,.0f} minutes (reckoned).",
        f"Dicts: {scale.dict_rows:,} rows.",
        "Batchmill writes rows and results to disk; Ray Data keeps them in memory that its driver shares.",
        "Starting the services and workers of each is not counted.",
    ]
