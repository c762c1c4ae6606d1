"""Follow a job: a progress bar on a terminal, one plain line every few seconds when piped."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

import click

from batchmill.cli import FAILED, INTERRUPTED
from batchmill.cli.terminal.console import outcome, print_json
from batchmill.clock import SystemClock
from batchmill.jobs.job import JobState
from batchmill.wording import byte_size, dead, pace, printable, progress, state, tokens

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rich.progress import TaskID

    from batchmill.client import Job
    from batchmill.clock import Clock
    from batchmill.jobs.status import JobStatus, StageStatus

LINE_INTERVAL_S = 5.0
STATE_CELLS = max(map(len, JobState))
BUFFER_CELLS = len("999.9 kB of 999.9 MB wait")


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
        print(f"{status.id} {state(status)}: {_text(status)}", file=self._out, flush=True)


class Bar:
    """A progress bar with the elapsed time, the rows below it, and a third line when the job is blocked.

    Every part of the first line has a fixed width, and each line is cut at the width of the terminal.
    """

    def __init__(self, out: TextIO) -> None:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.text import Text

        self._bar = Progress(
            TextColumn(f"{{task.description:<{STATE_CELLS}}}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[buffer]}"),
            TimeElapsedColumn(),
            expand=True,
            auto_refresh=False,
        )
        self._tasks: list[TaskID] = []
        self._text = Text(no_wrap=True, overflow="ellipsis")
        self.content = Group(self._bar, self._text)
        self._live = Live(self.content, console=Console(file=out), transient=True, redirect_stdout=False)
        self._live.start()

    def show(self, status: JobStatus) -> None:
        """Move the bar."""
        bars = [(one.name, one.rows_total, one.rows_done + one.rows_dead, _buffer(one)) for one in status.stages]
        if len(bars) < 2:
            bars = [(state(status), status.rows_total, status.rows_done + status.rows_dead, "")]
        while len(self._tasks) < len(bars):
            self._tasks.append(self._bar.add_task("", total=None, buffer=""))
        for task, (name, total, settled, buffer) in zip(self._tasks, bars, strict=True):
            self._bar.update(task, description=printable(name), total=total or None, completed=settled, buffer=buffer)
        self._text.plain = "\n".join(_lines(status))
        self._live.refresh()

    def stop(self) -> None:
        """Remove the bar from the screen."""
        self._live.stop()


def _lines(status: JobStatus) -> list[str]:
    """Return the lines below the bar: operator, progress, speed and errors; then what blocks the job."""
    failed = f"failed: {dead(status)}" if status.dead_by_error else ""
    parts = (
        status.title,
        progress(status),
        *_stages(status),
        tokens(status.tokens),
        pace(status),
        _loading(status),
        failed,
    )
    blocked = [f"blocked: {status.note}"] if status.note else []
    return [printable(line) for line in (", ".join(part for part in parts if part), *blocked)]


def _text(status: JobStatus) -> str:
    """Summarize progress, speed, errors and what blocks the job in one line."""
    errors = f"failed: {dead(status)}" if status.dead_by_error else ""
    blocked = f"blocked: {status.note}" if status.note else ""
    parts = (progress(status), *_stages(status), tokens(status.tokens), pace(status), _loading(status), errors, blocked)
    return printable(", ".join(part for part in parts if part))


def _buffer(stage: StageStatus) -> str:
    """Say how much waits behind a stage for the next one, always in as many cells."""
    if stage.buffer_bytes is None:
        return " " * BUFFER_CELLS
    return f"{byte_size(stage.buffered_bytes)} of {byte_size(stage.buffer_bytes)} wait".rjust(BUFFER_CELLS)


def _stages(status: JobStatus) -> list[str]:
    """Return the finished share of each stage if the job has several."""
    if len(status.stages) < 2:
        return []
    return [f"{stage.name} {'?' if stage.share is None else f'{stage.share:.0%}'}" for stage in status.stages]


def _loading(status: JobStatus) -> str:
    """Say which stages wait for their model: `embed loads its model`; "" if none does."""
    return ", ".join(f"{stage.name} loads its model" for stage in status.stages if stage.workers_loading)


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
