"""Output for a terminal, for a pipe and as JSON."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from batchmill.wording import count, dead, duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic import BaseModel

    from batchmill.job import JobStatus


def print_json(value: BaseModel) -> None:
    """Print one JSON object on one line."""
    click.echo(value.model_dump_json())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """Print a table: coloured on a terminal, with tabs between columns when piped, so that `cut` and `awk` work."""
    lines = list(rows)
    if not sys.stdout.isatty():
        for line in (columns, *lines):
            click.echo("\t".join(line))
    elif lines:
        _rich_table(columns, lines)
    else:
        click.echo(empty)


def _rich_table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column)
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    Console().print(table)


def ago(moment: float) -> str:
    """Format a wall-clock time as the time that has passed since."""
    return f"{duration(time.time() - moment)} ago"


def moment(at: float) -> str:
    """Format a wall-clock time in this machine's time zone: `2030-01-31 17:00:00+01:00`."""
    return datetime.fromtimestamp(at, UTC).astimezone().isoformat(" ", "seconds")


def outcome(status: JobStatus) -> str:
    """Summarize an ended job in one line: its rows, its time, its failed rows, and where the results are."""
    took = ""
    if status.finished_at is not None:
        took = f" in {duration(status.finished_at - (status.started_at or status.created_at))}"
    match status.state:
        case "completed":
            line = f"{status.id} completed: {count(status.rows_done)} done{took}"
        case "failed":
            reason = status.error.message if status.error else "the service gave no reason"
            line = f"{status.id} failed after {count(status.rows_done)}{took}: {' '.join(reason.split())}"
        case state:
            line = f"{status.id} {state} after {count(status.rows_done)}{took}"
    if status.rows_dead:
        kinds = f": {dead(status)}" if status.dead_by_error else ""
        line += f"; {count(status.rows_dead)} failed{kinds} (not in the results)"
    where = f"results in {status.output}" if status.output else f"`batchmill results {status.id}` prints the results"
    return f"{line}; {where}" if status.rows_done else line


def fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """Print aligned `name: value` lines; skip pairs without a value."""
    shown = [(name, str(value)) for name, value in pairs if value not in (None, "")]
    width = max(len(name) for name, _ in shown) + 1
    for name, value in shown:
        click.echo(f"{name + ':':<{width}} {value}")
