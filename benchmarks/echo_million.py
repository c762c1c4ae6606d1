"""Rows through `echo`, from submit to the last row in the client's hands, beside Celery and Ray Data."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.dataset as ds

import batchmill
from benchmarks import corpora
from benchmarks.celery_peer import celery_peer
from benchmarks.figures import Bar, Figure, Report
from benchmarks.ray_peer import RaySetting, ray_peer
from benchmarks.stack import processes, start_valkey

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from benchmarks.scale import Scale

NAME = "echo_million"
WORKERS = 2
FILES = 8
ROWS_FORM = RaySetting(WORKERS, None)
"""For dicts Ray spends its time on making and reading them, whatever the size of its batches."""

CELERY, CELERY_IGNORED = "Celery, a task a row", "Celery, results ignored"
BATCHMILL, RAY = "Batchmill", "Ray Data"
BATCHMILL_DICTS, RAY_DICTS = "Batchmill, dicts in and out", "Ray Data, dicts in and out"
BATCHMILL_FILES, RAY_FILES = "Batchmill, Parquet files in and out", "Ray Data, Parquet files in and out"


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
    figures = [Figure(one.name, "rows/s", speeds[one.name], one.note) for one in contenders] + _ratios(speeds)
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
    in_out = _InOut(Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))), scale.rows)
    return [
        Contender(BATCHMILL, scale.rows, lambda: echo_table(client, table)),
        Contender(CELERY, scale.celery_rows, lambda: celery.with_results(few)),
        Contender(RAY, scale.rows, lambda: ray.table(table, best), f"the best of several settings: {best}"),
        Contender(CELERY_IGNORED, scale.celery_rows, lambda: celery.without_results(few)),
        Contender(BATCHMILL_DICTS, scale.dict_rows, lambda: echo_rows(client, rows)),
        Contender(RAY_DICTS, scale.dict_rows, lambda: ray.rows(rows, ROWS_FORM)),
        Contender(BATCHMILL_FILES, scale.rows, lambda: in_out.timed(lambda *paths: echo_files(client, *paths))),
        Contender(RAY_FILES, scale.rows, lambda: in_out.timed(ray.files)),
    ]


class _InOut:
    """A source of Parquet files, and a fresh folder for each that reads it and writes its rows again."""

    def __init__(self, folder: Path, rows: int) -> None:
        self._output = folder / "output"
        source = folder / "source"
        source.mkdir()
        self._source = corpora.write_folder(source, rows, FILES)
        self._rows = corpora.table(rows)

    def timed(self, run: Callable[[Path, Path], float]) -> float:
        """The seconds that `run(source, output)` gives, after comparing its rows in any order."""
        took = run(self._source, self._output)
        back = ds.dataset(str(self._output), format="parquet").to_table().sort_by("id")
        shutil.rmtree(self._output)
        if not back.combine_chunks().equals(self._rows):
            raise RuntimeError("the rows of the files are not what they were")
        return took


def echo_files(client: batchmill.Client, source: Path, output: Path) -> float:
    """A folder of Parquet files in, another out; seconds."""
    began = time.perf_counter()
    client.submit("echo", source=source, output=output).wait()
    return time.perf_counter() - began


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


def _ratios(speeds: dict[str, list[float]]) -> list[Figure]:
    pairs = {
        "Batchmill over Ray Data": (BATCHMILL, RAY),
        "the same, dicts in and out": (BATCHMILL_DICTS, RAY_DICTS),
        "the same, Parquet files in and out": (BATCHMILL_FILES, RAY_FILES),
        "Batchmill over Celery with a task a row": (BATCHMILL, CELERY),
    }
    return [
        Figure(name, "x", [ours / theirs for ours, theirs in zip(speeds[one], speeds[other], strict=True)])
        for name, (one, other) in pairs.items()
    ]


def _bars(figures: list[Figure]) -> list[Bar]:
    speed = {figure.name: figure.median for figure in figures}
    return [
        Bar("rows/s over Celery with a task a row", speed[BATCHMILL] / speed[CELERY], "at least", 300, "x"),
        Bar("rows/s over Ray Data", speed[BATCHMILL] / speed[RAY], "at least", 5, "x", target=10),
    ]


def _remarks(figures: list[Figure], scale: Scale) -> list[str]:
    celery = next(figure for figure in figures if figure.name == CELERY)
    minutes = scale.rows / celery.median / 60
    return [
        f"Celery ran {scale.celery_rows:,} rows; {scale.rows:,} are reckoned from that: {minutes:,.0f} minutes.",
        f"Dicts: {scale.dict_rows:,} rows.",
        "Tables and dicts: Batchmill stores rows and results on disk, Ray Data in memory that its driver shares.",
        "Starting the services and workers of each is not counted.",
    ]
