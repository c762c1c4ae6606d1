"""`batchmill logs`: the log of a job."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from batchmill.cli.options import json_option, service_options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchmill.client import Client
    from batchmill.job_log import LogEntry

_COLOURS = {"warning": "yellow", "error": "red"}


@click.command()
@click.argument("job_id", metavar="JOB")
@click.option(
    "--level",
    type=click.Choice(["info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Minimum level to show.",
)
@click.option("--follow", "-f", is_flag=True, help="Follow the log until the job has ended.")
@click.option("--verbose", "-v", is_flag=True, help="Show tracebacks.")
@json_option
@service_options
def logs(client: Client, job_id: str, level: str, follow: bool, verbose: bool, as_json: bool) -> None:
    """Show a job's log: errors, retries, lost workers, failed rows and changes of state.

    One line per entry: time, level, event, worker, shard and attempt, and the message. With --json, print one JSON
    object per line, including the traceback. Ctrl-C stops following; the job continues.
    """
    from batchmill.cli import INTERRUPTED

    job = client.job(job_id)
    try:
        _show(job.follow_log(level) if follow else job.log(level), verbose=verbose, as_json=as_json)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(INTERRUPTED) from None


def _show(entries: Iterable[LogEntry], *, verbose: bool, as_json: bool) -> None:
    from batchmill.cli.console import print_json

    for entry in entries:
        if as_json:
            print_json(entry)
        else:
            click.echo(_line(entry))
            if verbose and entry.traceback:
                click.echo("".join(f"    {line}\n" for line in entry.traceback.splitlines()), nl=False)
        sys.stdout.flush()


def _line(entry: LogEntry) -> str:
    at = datetime.fromtimestamp(entry.at, UTC).astimezone().isoformat(" ", "milliseconds")
    level = click.style(f"{entry.level:<7}", fg=_COLOURS.get(entry.level))
    parts = (f"shard {entry.shard}" if entry.shard else "", f"attempt {entry.attempt}" if entry.attempt else "")
    where = ", ".join(part for part in (entry.worker, *parts) if part)
    return f"{at} {level} {entry.event}{f' [{where}]' if where else ''}: {entry.message}"
