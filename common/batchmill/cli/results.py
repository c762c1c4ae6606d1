"""`batchmill results`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from batchmill.cli.options import service_options

if TYPE_CHECKING:
    from batchmill.client import Client, Job
    from batchmill.job import JobStatus

EPILOG = """\b
Examples:
  batchmill results JOB | head
  batchmill results JOB -o vectors.parquet

\b
Exit codes: 0 the job completed and all its rows were written, 1 the job failed, was cancelled or expired (its
finished rows were written), 2 the input is wrong, 3 the service cannot be reached or does not accept the token.
"""


@click.command(epilog=EPILOG)
@click.argument("job_id", metavar="JOB")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a .parquet, .arrow, .csv or .jsonl file instead.",
)
@service_options
def results(client: Client, job_id: str, output: Path | None) -> None:
    """Write a job's result rows to stdout as JSON Lines, in input order.

    Rows are written as soon as they are available, and the command ends with the job. With --output, rows go to a
    temporary file, which replaces FILE once it is complete.
    """
    from batchmill.errors import JobFailed

    job = client.job(job_id)
    try:
        rows = _to_stdout(job) if output is None else _to_file(job, output)
    except JobFailed as error:
        click.echo(f"error: {error}", err=True)
        raise click.exceptions.Exit(1) from error
    _print_summary(job.status(), rows, output)


def _to_stdout(job: Job) -> int:
    rows = 0
    for page in job.pages("jsonl"):
        _write_all(sys.stdout.buffer, page.lines())
        rows += page.rows
    return rows


def _write_all(out: BinaryIO, data: bytes) -> None:
    """Write all of `data`: an unbuffered stdout (PYTHONUNBUFFERED) accepts only what fits into the pipe."""
    rest = memoryview(data)
    while rest:
        rest = rest[out.write(rest) :]
    out.flush()


def _to_file(job: Job, path: Path) -> int:
    """Write the file, also for a failed job; raise `JobFailed` after it is written."""
    from batchmill.cli.exports import check_path, open_export
    from batchmill.errors import JobFailed
    from batchmill.wording import count

    check_path(path)
    rows, failure = 0, None
    with open_export(path) as export:
        try:
            for page in job.pages(export.content_type):
                export.write(page)
                rows += page.rows
        except JobFailed as error:
            failure = error
        export.finish(path)
    if failure is not None:
        failure.hint = f"Its {count(rows, 'finished row')} {'is' if rows == 1 else 'are'} in {path}."
        raise failure
    return rows


def _print_summary(status: JobStatus, rows: int, path: Path | None) -> None:
    from batchmill.job import JobState
    from batchmill.wording import count

    notes = []
    if path is not None:
        notes.append(f"wrote {count(rows)} to {path}")
    if status.rows_dead:
        notes.append(f"{count(status.rows_dead, 'failed row')} {'is' if status.rows_dead == 1 else 'are'} not included")
    if status.state is JobState.CANCELLED:
        notes.append("the job was cancelled: only its finished rows are included")
    if status.state is JobState.EXPIRED:
        notes.append("the job's deadline passed: only the rows finished by then are included")
    if notes:
        click.echo("; ".join(notes), err=True)
    if status.state is not JobState.COMPLETED:
        raise click.exceptions.Exit(1)
