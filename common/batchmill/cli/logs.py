"""`batchmill logs`: the log of a job, or the logs of the service on this machine."""

from __future__ import annotations

import sys
import time
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING

import click

from batchmill.cli.arguments.options import json_option, open_client, url_options
from batchmill.cli.arguments.selection import find_job
from batchmill.wording import count, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchmill.jobs.job_log import LogEntry

REPEATS_INTERVAL_S = 10.0  # while a log is followed: between two lines about one error that is repeated
_COLOURS = {"warning": "yellow", "error": "red"}


@click.command()
@click.argument("job_id", metavar="[JOB]", required=False)
@click.option(
    "--service",
    "of_service",
    is_flag=True,
    help="Show the end of the logs of the service that `batchmill up` runs on this machine.",
)
@click.option(
    "--lines", "-n", type=click.IntRange(1), default=40, show_default=True, help="With --service: lines of each log."
)
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
@url_options
def logs(
    job_id: str | None,
    of_service: bool,
    lines: int,
    level: str,
    follow: bool,
    verbose: bool,
    as_json: bool,
    url: str | None,
    token: str | None,
) -> None:
    """Show the log of a job, or of the service.

    A job's log has its errors, retries, lost workers, failed rows and changes of state.

    One line per entry: time, level, event, worker, shard and attempt, and the message; an error that repeats is shown
    once, with the number of further attempts (with --follow, every ten seconds while it is repeated). With --json,
    print one JSON object per line for every entry, including the traceback. Ctrl-C stops following; the job continues.
    """
    from batchmill.cli import INTERRUPTED

    if of_service:
        _show_service(lines)
        return
    if job_id is None:
        raise click.UsageError("expected JOB, or --service.")
    with open_client(url, token) as client:
        job = find_job(client, job_id)
        try:
            _show(job.log_pages(level) if follow else [job.log(level)], verbose=verbose, as_json=as_json)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(INTERRUPTED) from None


def _show_service(lines: int) -> None:
    """Print the last lines of each log of the embedded service."""
    from batchmill.embedded.folder import DataFolder
    from batchmill.settings import default_data_dir

    for path in sorted(DataFolder(default_data_dir()).logs.glob("*.log")):
        click.secho(f"==> {path} <==", bold=True)
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in deque(file, maxlen=lines):
                click.echo(printable(line.rstrip("\n")))


def _show(pages: Iterable[list[LogEntry]], *, verbose: bool, as_json: bool) -> None:
    from batchmill.cli.terminal.console import print_json

    if as_json:
        for entry in chain.from_iterable(pages):
            print_json(entry)
            sys.stdout.flush()
        return
    log = _LogView(verbose=verbose)
    for entries in pages:
        for entry in entries:
            log.show(entry)
        log.show_repeats(REPEATS_INTERVAL_S)
        sys.stdout.flush()
    log.show_repeats(0.0)


class _LogView:
    """Prints entries, and an error that repeats only once."""

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose
        self._latest: LogEntry | None = None
        self._repeats = 0
        self._shown = 0  # of the repeats
        self._shown_at_s = 0.0

    def show(self, entry: LogEntry) -> None:
        if self._latest is not None and _is_same_error(self._latest, entry):
            self._repeats += 1
            return
        self.show_repeats(0.0)
        self._latest, self._repeats, self._shown, self._shown_at_s = entry, 0, 0, time.monotonic()
        click.echo(_line(entry))
        if self._verbose and entry.traceback:
            click.echo("".join(f"    {printable(line)}\n" for line in entry.traceback.splitlines()), nl=False)

    def show_repeats(self, after_s: float) -> None:
        """Print how many attempts had the error of the last entry too, if that is not shown yet.

        after_s: nothing is printed sooner than that after the last line.
        """
        if self._repeats > self._shown and time.monotonic() - self._shown_at_s >= after_s:
            self._shown, self._shown_at_s = self._repeats, time.monotonic()
            click.echo(f"    {count(self._repeats, 'more attempt')}, same error")


def _is_same_error(one: LogEntry, other: LogEntry) -> bool:
    return one.level in _COLOURS and (one.level, one.event, one.message) == (other.level, other.event, other.message)


def _line(entry: LogEntry) -> str:
    line = printable(str(entry))
    return click.style(line, fg=_COLOURS.get(entry.level)) if entry.level in _COLOURS else line
