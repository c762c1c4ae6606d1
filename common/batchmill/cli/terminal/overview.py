"""The content of `batchmill top`: a snapshot of jobs, pools and workers, as tables."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from batchmill.cli.terminal.tables import Column, lay_out
from batchmill.fleet import PoolStatus, WorkerInfo
from batchmill.jobs.frozen import Frozen
from batchmill.jobs.job import JobState
from batchmill.jobs.status import JobStatus
from batchmill.wording import count, duration, eta_range, printable, rows_per_second, speed, state

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchmill.client import Client

ENDED_SHOWN = 5
"""Up to this number of the newest jobs are shown even if they have ended."""
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: column titles and rows."""

    columns: tuple[Column, ...]
    rows: Sequence[tuple[str, ...]]
    empty: str  # the text to show without rows


class Overview(Frozen):
    """The service at one moment."""

    at: float  # seconds since the epoch
    jobs: list[JobStatus]  # jobs that have not ended, then the newest ended ones
    pools: list[PoolStatus]
    workers: list[WorkerInfo]

    def headline(self) -> str:
        """Summarize the snapshot in one line."""
        live = [job for job in self.jobs if not job.is_final]
        pace = sum(job.rows_per_second or 0.0 for job in live)
        busy, at_once = sum(len(one.running) for one in self.workers), sum(one.shards_at_once for one in self.workers)
        clock = time.strftime("%H:%M:%S", time.localtime(self.at))
        return (
            f"batchmill {clock}   {count(len(live), 'job')}, {rows_per_second(pace)}   "
            f"{count(len(self.workers), 'worker')}, {busy} of {count(at_once, 'shard')} running"
        )

    def tables(self) -> list[Grid]:
        """Return the tables of pools, jobs and workers."""
        return [self._pools(), self._jobs(), self._workers()]

    def lines(self, width: int, height: int) -> Iterator[tuple[str, str, list[str]]]:
        """Yield title, header and lines of each table for a terminal; a title counts the rows that do not fit."""
        grids = dict(zip(("pools", "jobs", "workers"), self.tables(), strict=True))
        left = max(height - 1 - 2 * len(grids), len(grids))
        for number, (name, grid) in enumerate(grids.items()):
            layout = lay_out(grid.columns, grid.rows, width)
            fitting = _fitting(layout.rows, max(left // (len(grids) - number), 1))
            shown = [line for row in layout.rows[:fitting] for line in row]
            left -= len(shown)
            more = len(grid.rows) - fitting
            yield f"{name}{f'  (and {more} more)' if more else ''}", layout.header, shown

    def _pools(self) -> Grid:
        rows = [
            (
                pool.name,
                f"{pool.workers}, mixed" if pool.mixed else str(pool.workers),
                "" if pool.scale is None else str(pool.scale.workers_wanted),
                f"{pool.shards_running} of {pool.capacity}",
                str(pool.shards_queued),
                str(pool.shards_waiting),
                f"{pool.rows_waiting:,}",
                "" if pool.oldest_queued_s is None else duration(pool.oldest_queued_s),
                str(pool.jobs),
            )
            for pool in self.pools
        ]
        columns = _columns("POOL~", "WORKERS", "WANTED", "RUNNING", "QUEUED", "WAITING", "ROWS LEFT", "OLDEST", "JOBS")
        return Grid(columns, [tuple(map(printable, row)) for row in rows], "No pool has workers or jobs.")

    def _jobs(self) -> Grid:
        rows = [
            (
                job.id,
                state(job),
                job.name or job.title,
                _share(job),
                f"{job.rows_done + job.rows_dead:,}",
                f"{job.rows_dead:,}",
                "" if job.rows_per_second is None else speed(job.rows_per_second),
                _time_left(job),
                job.note or "",
            )
            for job in self.jobs
        ]
        titles = ("JOB", "STATE", "NAME~", "DONE", "ROWS", "FAILED", "ROWS/S", "LEFT")
        columns = (*_columns(*titles), Column("BLOCKED", is_below=True))
        return Grid(columns, [tuple(map(printable, row)) for row in rows], "No jobs.")

    def _workers(self) -> Grid:
        rows = [
            (
                worker.name,
                worker.pool,
                _device(worker),
                f"{len(worker.running)} of {worker.shards_at_once}",
                str(len(worker.models)),
                ", ".join(f"{batch.operator} {batch.rows:,}" for batch in worker.batches),
            )
            for worker in self.workers
        ]
        columns = _columns("WORKER~", "POOL~", "DEVICE~", "BUSY", "MODELS", "BATCH ROWS~")
        return Grid(columns, [tuple(map(printable, row)) for row in rows], "No worker is running.")


def _columns(*titles: str) -> tuple[Column, ...]:
    """Make columns; the cells of one whose title ends with `~` are text that may be cut."""
    return tuple(Column(title.removesuffix("~"), is_text=title.endswith("~")) for title in titles)


def _fitting(rows: Sequence[Sequence[str]], height: int) -> int:
    """Return how many rows fit into `height` lines, at least one."""
    ends = list(accumulate(map(len, rows)))
    return max(sum(end <= height for end in ends), min(len(rows), 1))


def snapshot(client: Client, limit: int) -> Overview:
    """Ask the service for a snapshot with at most `limit` jobs."""
    live = [job.latest for job in client.live_jobs(limit) if job.latest is not None]
    newest = [job.latest for job in client.jobs(min(limit, ENDED_SHOWN)) if job.latest is not None]
    ended = [job for job in newest if job.is_final]
    return Overview(at=time.time(), jobs=(live + ended)[:limit], pools=client.pools(), workers=client.workers())


def _share(job: JobStatus) -> str:
    shares = ["?" if stage.share is None else f"{stage.share:.0%}" for stage in job.stages]
    return " ".join(shares)


def _time_left(job: JobStatus) -> str:
    if job.eta_s is None or job.state is not JobState.RUNNING:
        return ""
    return f"{duration(job.eta_s)}{eta_range(job)}"


def _device(worker: WorkerInfo) -> str:
    kind = f"{worker.device_count} x {worker.device_type}" if worker.device_count > 1 else worker.device_type
    memory = f" {worker.memory_bytes / GIB:.0f} GiB" if worker.memory_bytes else ""
    return f"{kind}{memory}"
