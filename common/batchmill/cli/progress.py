"""Follow a job: a progress bar on a terminal, one plain line every few seconds when piped."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

import click

from batchmill.cli import FAILED, INTERRUPTED
from batchmill.cli.console import outcome, print_json
from batchmill.clock import SystemClock
from batchmill.job import JobState, JobStatus
from batchmill.wording import dead, pace, progress

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batchmill.client import Job
    from batchmill.clock import Clock

LINE_INTERVAL_S = 5.0


class Display(Protocol):
    """Shows a job's progress."""

    def show(self, status: JobStatus) -> None:
        """Show a status."""


class PlainLines:
    """Prints a line for the first status and then at most one per `LINE_INTERVAL_S`: for pipes and logs."""

    def __init__(self, out: TextIO, clock: Clock) -> None:
        self._out = out
        self._clock = clock
        self._due = float("-inf")

    def show(self, status: JobStatus) -> None:
        """Print a line if one is due; the caller prints the final status."""
        now = self._clock.monotonic()
        if now < self._due or status.is_final:
            return
        self._due = now + LINE_INTERVAL_S
        print(f"{status.id} {status.state}: {_text(status)}", file=self._out, flush=True)


class Bar:
    """A progress bar with the rows done, rows/s and the time left."""

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[text]}"),
            console=Console(file=out),
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, text="")
        self._progress.start()

    def show(self, status: JobStatus) -> None:
        """Move the bar."""
        self._progress.update(
            self._task,
            description=f"{status.operator} {status.state}",
            total=status.rows_total or None,
            completed=status.rows_done + status.rows_dead,
            text=_text(status).replace("[", r"\["),
        )

    def stop(self) -> None:
        """Remove the bar from the screen."""
        self._progress.stop()


def _text(status: JobStatus) -> str:
    """Summarize progress, speed, errors and what blocks the job in one line."""
    errors = f"failed: {dead(status)}" if status.dead_by_error else ""
    blocked = f"blocked: {status.note}" if status.note else ""
    parts = (progress(status), *_stages(status), pace(status), errors, blocked)
    return ", ".join(part for part in parts if part)


def _stages(status: JobStatus) -> list[str]:
    """Return the finished share of each stage if the job has several."""
    if len(status.stages) < 2:
        return []
    return [f"{stage.operator} {'?' if stage.share is None else f'{stage.share:.0%}'}" for stage in status.stages]


class JsonStatuses:
    """Prints each status as one JSON object per line."""

    def show(self, status: JobStatus) -> None:
        """Write the status."""
        print_json(status)


class Silent:
    """Shows nothing."""

    def show(self, status: JobStatus) -> None:
        """Do nothing."""


@contextmanager
def display(out: TextIO, *, plain: bool) -> Iterator[Display]:
    """Yield a bar if `out` is a terminal; else plain lines, or nothing unless `plain`."""
    if not out.isatty():
        yield PlainLines(out, SystemClock()) if plain else Silent()
        return
    bar = Bar(out)
    try:
        yield bar
    finally:
        bar.stop()


def follow(job: Job, statuses: Iterable[JobStatus], where: Display) -> JobStatus:
    """Show a job's statuses and return the final one. Ctrl-C raises `Interrupted`; the job continues."""
    last: JobStatus | None = None
    try:
        for status in statuses:
            last = status
            where.show(status)
    except KeyboardInterrupt:
        raise Interrupted(job.id) from None
    return last if last is not None else job.status()


class Interrupted(click.exceptions.Exit):
    """The user stopped following a job that continues."""

    def __init__(self, job_id: str) -> None:
        super().__init__(INTERRUPTED)
        self.job_id = job_id

    def explain(self) -> None:
        """Print that the job continues, and how to follow or stop it."""
        click.echo(
            f"\nstopped watching; job {self.job_id} continues. `batchmill watch {self.job_id}` follows it again, "
            f"`batchmill cancel {self.job_id}` stops it.",
            err=True,
        )


def watch_to_the_end(job: Job, *, as_json: bool, each_as_json: bool = False) -> None:
    """Follow a job, print its outcome in one line, and exit with 1 unless it completed.

    as_json: print only JSON to stdout: the final status, or with `each_as_json` every status.
    """
    out = sys.stderr if as_json else sys.stdout
    try:
        if each_as_json:
            final = follow(job, job.watch(), JsonStatuses())
        else:
            with display(out, plain=not as_json) as where:
                final = follow(job, job.watch(), where)
    except Interrupted as interrupted:
        interrupted.explain()
        raise
    if not as_json:
        click.echo(outcome(final))
    elif not each_as_json:
        print_json(final)
    if final.state is not JobState.COMPLETED:
        raise click.exceptions.Exit(FAILED)
