"""How soon a large job that was cancelled near its end resumes when it is submitted again with its output."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from batchmill.errors import JobCancelled
from benchmarks import corpora
from benchmarks.figures import Bar, Figure, Report
from benchmarks.stack import processes, service

if TYPE_CHECKING:
    from batchmill import Client
    from benchmarks.scale import Scale

NAME = "resume"
WORKERS = 2
DONE_SHARE = 0.9


def measure(scale: Scale) -> Report:
    """A Parquet source of `scale.many_rows` rows, cancelled and submitted again, `scale.memory_runs` times over."""
    resuming: list[float] = []
    ending: list[float] = []
    shares: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder,
        processes(Path(folder)) as run,
        service(run, WORKERS) as running,
    ):
        source = corpora.write_file(Path(folder), scale.many_rows, "parquet")
        for _ in range(scale.memory_runs):
            output = Path(folder) / "out"
            one = _resume(running.client, source, output, scale.many_rows)
            for figures, value in zip((resuming, ending, shares), one, strict=True):
                figures.append(value)
            shutil.rmtree(output)
    settings = {"rows": scale.many_rows, "runs": scale.memory_runs, "workers": WORKERS}
    figures = [
        Figure("submit to the first new rows done", "s", resuming),
        Figure("submit to the end of the job", "s", ending),
        Figure("done when it was cancelled", "%", shares),
    ]
    bar = Bar("a job 90 % done resumes after", max(resuming), "below", 5, "s")
    return Report(NAME, settings, figures, [bar], REMARKS)


REMARKS = [
    "The operator is `echo`, the source one Parquet file, the output a folder of Parquet files.",
    "The first status of the second job may count new rows already; the clock then runs on to the next ones.",
]


def _resume(client: Client, source: Path, output: Path, rows: int) -> tuple[float, float, float]:
    first = client.submit("echo", source=source, output=output)
    while first.status().rows_done < DONE_SHARE * rows:
        time.sleep(0.01)
    first.cancel()
    try:
        first.wait()
    except JobCancelled:
        done = first.status().rows_done
    else:
        raise RuntimeError("the job ended before it was cancelled: the machine is too fast, or there are too few rows")
    began = time.perf_counter()
    second = client.submit("echo", source=source, output=output)
    kept = 0
    for status in second.watch():
        kept = kept or status.rows_done
        if status.rows_done > kept or status.is_final:
            break
    resumed_after_s = time.perf_counter() - began
    second.wait()
    return resumed_after_s, time.perf_counter() - began, 100 * done / rows
