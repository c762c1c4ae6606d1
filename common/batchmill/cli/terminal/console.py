"""Output for a terminal, for a pipe and as JSON."""

from __future__ import annotations

import shutil
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from batchmill.cli.terminal.tables import Column, lay_out
from batchmill.jobs.job import JobState
from batchmill.wording import count, dead, duration, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pydantic import BaseModel

    from batchmill.jobs.status import CheckedJob, JobStatus


def print_json(value: BaseModel) -> None:
    """Print one JSON object on one line."""
    click.echo(value.model_dump_json())


def print_table(columns: Sequence[Column | str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Print a table: laid out on a terminal, with tabs between columns when piped, so that `cut` and `awk` work.

    A column that is given by its title alone is never cut. Control characters are escaped.
    """
    described = [Column(column) if isinstance(column, str) else column for column in columns]
    lines = [tuple(map(printable, row)) for row in rows]
    if not sys.stdout.isatty():
        for line in (tuple(column.title for column in described), *lines):
            click.echo("\t".join(line))
        return
    if not lines:
        click.echo(empty)
        return
    layout = lay_out(described, lines, terminal_width())
    click.secho(layout.header, bold=True)
    for row_lines in layout.rows:
        click.echo("\n".join(row_lines))


def terminal_width() -> int:
    """Return the width of the terminal in cells."""
    return shutil.get_terminal_size().columns


def ago(moment: float) -> str:
    """Format a wall-clock time as the time that has passed since."""
    return f"{duration(time.time() - moment)} ago"


def moment(at: float) -> str:
    """Format a wall-clock time in this machine's time zone: `2030-01-31 17:00:00+01:00`."""
    return datetime.fromtimestamp(at, UTC).astimezone().isoformat(" ", "seconds")


def outcome(status: JobStatus) -> str:
    """Summarize an ended job in one line: its rows, its time, its failed rows, and where the results are."""
    line = _ending(status)
    if status.rows_dead:
        line = f"{line}; `batchmill dead {status.id}` shows why"
    if status.state is JobState.FAILED:
        line = f"{line.rstrip('.')}; `batchmill logs {status.id} -v` shows tracebacks"
    return printable(f"{line}; {_place(status)}" if status.rows_done else line)


def _place(status: JobStatus) -> str:
    sink = status.request.sink if status.request is not None else None
    if sink is not None:
        return f"rows in {sink.to}; `batchmill search {sink.index_name}` finds those nearest to a text or vector"
    return f"results in {status.output}" if status.output else f"`batchmill results {status.id}` prints the results"


def run_outcome(status: JobStatus, path: Path | None) -> str:
    """Summarize the job of `batchmill run`, which leaves nothing but its results, at `path` or on stdout."""
    return printable(f"{_ending(status)}{f'; results in {path}' if path else ''}")


def _ending(status: JobStatus) -> str:
    took = ""
    if status.finished_at is not None:
        took = f" in {duration(status.finished_at - (status.started_at or status.created_at))}"
    match status.state:
        case JobState.COMPLETED:
            line = f"{status.id} completed: {count(status.rows_done)} done{took}"
        case JobState.FAILED:
            reason = status.error.message if status.error else "the service gave no reason"
            line = f"{status.id} failed after {count(status.rows_done)}{took}: {' '.join(reason.split())}"
        case state:
            line = f"{status.id} {state} after {count(status.rows_done)}{took}"
    if not status.rows_dead:
        return line
    kinds = f": {dead(status)}" if status.dead_by_error else ""
    return f"{line}; {count(status.rows_dead)} failed{kinds} (not in the results)"


def fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print aligned `name: value` lines; skip pairs without a value."""
    shown = [(name, printable(str(value))) for name, value in pairs if value not in (None, "")]
    width = max(len(name) for name, _ in shown) + 1
    for name, value in shown:
        click.echo(f"{name + ':':<{width}} {value}")


def found_input(found: CheckedJob) -> list[tuple[str, str]]:
    """Describe the input of a checked job as pairs for `fields`."""
    about = "" if found.rows_total_is_exact else "about "
    columns = ", ".join(f"{name} ({kind})" for name, kind in found.columns.items())
    return [("rows", f"{about}{found.rows_total:,}"), ("columns", columns)]


def print_notes(found: CheckedJob) -> None:
    """Print what a checked job would wait for, a line each."""
    for note in found.notes:
        click.echo(printable(f"It would wait: {note}."))
