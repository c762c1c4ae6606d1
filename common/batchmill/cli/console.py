"""How values look on a terminal, in a pipe and as JSON."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydantic import BaseModel

    from batchmill.job import JobStatus


def print_json(value: BaseModel) -> None:
    """One JSON object on a line of its own."""
    click.echo(value.model_dump_json())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, empty: str) -> None:
    """A table for people: coloured on a terminal, tabs between columns in a pipe, so that `cut` and `awk` work."""
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


def count(rows: int, noun: str = "row") -> str:
    """`1 row`, `12,345 rows`."""
    return f"{rows:,} {noun}" if rows == 1 else f"{rows:,} {noun}s"


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def ago(moment: float) -> str:
    """How long before now a wall-clock time is."""
    return f"{duration(time.time() - moment)} ago"


def moment(at: float) -> str:
    """A wall-clock time, as this machine's time zone has it: `2030-01-31 17:00:00+01:00`."""
    return datetime.fromtimestamp(at, UTC).astimezone().isoformat(" ", "seconds")


def progress(status: JobStatus) -> str:
    """`1,000 of 5,000 rows`; what is dead counts as settled and is told besides, as are rows that were not computed."""
    settled = status.rows_done + status.rows_dead
    total = "?" if status.rows_total is None else f"{status.rows_total:,}"
    about = "about " if status.rows_total_is_estimate else ""
    counts = {"dead": status.rows_dead, "from the cache": status.rows_cached}
    besides = ", ".join(f"{rows:,} {what}" for what, rows in counts.items() if rows)
    return f"{settled:,} of {about}{total} rows{f' ({besides})' if besides else ''}"


def pace(status: JobStatus) -> str:
    """`812 rows/s, 12 s left`, as far as it is known."""
    known = []
    if status.rows_per_second is not None:
        known.append(f"{status.rows_per_second:,.0f} rows/s")
    if status.eta_s is not None and not status.is_final:
        known.append(f"{duration(status.eta_s)} left")
    return ", ".join(known)


def outcome(status: JobStatus) -> str:
    """One line on how an ended job went: its rows, its time, the dead, and where the results lie."""
    took = ""
    if status.finished_at is not None:
        took = f" in {duration(status.finished_at - (status.started_at or status.created_at))}"
    match status.state:
        case "completed":
            line = f"{status.id} completed: {count(status.rows_done)} done{took}"
        case "failed":
            reason = status.error.message if status.error else "no reason was given"
            line = f"{status.id} failed after {count(status.rows_done)}{took}: {' '.join(reason.split())}"
        case state:
            line = f"{status.id} {state} after {count(status.rows_done)}{took}"
    if status.rows_dead:
        line += f"; {count(status.rows_dead)} could not be done (not among the results)"
    where = f"lie in {status.output}" if status.output else f"come with `batchmill results {status.id}`"
    return f"{line}; the results {where}" if status.rows_done else line


def fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """`name: value` lines, aligned; pairs without a value are left out."""
    shown = [(name, str(value)) for name, value in pairs if value not in (None, "")]
    width = max(len(name) for name, _ in shown) + 1
    for name, value in shown:
        click.echo(f"{name + ':':<{width}} {value}")
