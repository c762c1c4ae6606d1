"""`batchmill results`."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, BinaryIO

import click

from batchmill.cli import FAILED, print_error
from batchmill.cli.arguments.options import service_options
from batchmill.cli.arguments.selection import find_job, job_argument

if TYPE_CHECKING:
    from batchmill.client import Client, Job
    from batchmill.client.results.pages import OnDamage
    from batchmill.errors import BatchmillError
    from batchmill.jobs.status import JobStatus

COPY_BYTES = 1024 * 1024

EPILOG = """\b
Examples:
  batchmill results JOB | head
  batchmill results JOB -o vectors.parquet

Exit codes: 0 the job completed and all its rows were written, 1 the job failed, was cancelled or expired (its
finished rows were written), 2 the input is wrong, 3 the service cannot be reached or does not accept the token.
"""


@click.command(epilog=EPILOG)
@job_argument
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a .parquet, .arrow, .csv or .jsonl file instead.",
)
@click.option(
    "--stage", metavar="NAME", help="The results of this stage, as far as they are there.  [default: the last]"
)
@click.option("--limit", "-n", type=click.IntRange(min=1), metavar="ROWS", help="Write only the first rows.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["jsonl", "csv", "arrow", "parquet"]),
    help="The format of the output.  [default: by the ending of FILE; jsonl on stdout]",
)
@click.option(
    "--skip-damaged", is_flag=True, help="Leave out results that are damaged or missing; exit with 1 if there are any."
)
@service_options
def results(
    client: Client,
    job_id: str,
    output: Path | None,
    stage: str | None,
    limit: int | None,
    kind: str | None,
    skip_damaged: bool,
) -> None:
    """Write the results of a job to stdout or a file.

    They are JSON Lines on stdout, in input order. Rows are written as soon as they are available, and the command
    ends with the job. With --output, rows go to a temporary file, which replaces FILE once it is complete.
    """
    from batchmill.cli.exports import check_path
    from batchmill.errors import InvalidOutput, JobFailed

    if output is not None:
        check_path(output, kind)
    elif kind not in (None, "jsonl") and (kind != "csv" and sys.stdout.isatty()):
        raise InvalidOutput(f"{kind} cannot be shown on a terminal.", hint="Give a file with --output.")
    job = find_job(client, job_id)
    skipped: list[BatchmillError] = []
    try:
        rows = write_results(job, output, limit, kind, skipped.append if skip_damaged else None, stage)
    except JobFailed as error:
        print_error(str(error), FAILED)
        raise click.exceptions.Exit(FAILED) from error
    for damage in skipped:
        print_error(str(damage), FAILED)
    status = job.status()
    _print_summary(status, rows, output, is_cut=rows == limit)
    is_gone = stage is not None and rows == 0 and bool(status.stages[stage].results)
    if is_gone and not skipped:
        print_error(
            f"the results of stage {stage} are deleted: the next stage has settled them, and the stage was submitted "
            f"without keep=true.",
            FAILED,
        )
    if skipped or is_gone:
        raise click.exceptions.Exit(FAILED)


def write_results(
    job: Job,
    output: Path | None,
    limit: int | None = None,
    kind: str | None = None,
    on_damage: OnDamage | None = None,
    stage: str | None = None,
) -> int:
    """Write the results to a file, or to stdout; return the number of rows. Raises `JobFailed` after the last one."""
    if output is not None:
        return _to_file(job, output, limit, kind, on_damage, stage)
    if kind in (None, "jsonl"):
        return _to_stdout(job, limit, on_damage, stage)
    with TemporaryDirectory(prefix="batchmill-results-") as folder:
        path = Path(folder) / "results"
        rows = _to_file(job, path, limit, kind, on_damage, stage)
        with path.open("rb") as file:
            while part := file.read(COPY_BYTES):
                _write_all(sys.stdout.buffer, part)
        return rows


def _to_stdout(job: Job, limit: int | None, on_damage: OnDamage | None, stage: str | None) -> int:
    rows = 0
    for page in job.pages("jsonl", on_damage=on_damage, stage=stage):
        first = page if limit is None else page.first(limit - rows)
        _write_all(sys.stdout.buffer, first.lines())
        rows += first.rows
        if rows == limit:
            break
    return rows


def _write_all(out: BinaryIO, data: bytes) -> None:
    """Write all of `data`: an unbuffered stdout (PYTHONUNBUFFERED) accepts only what fits into the pipe."""
    rest = memoryview(data)
    while rest:
        rest = rest[out.write(rest) :]
    out.flush()


def _to_file(
    job: Job, path: Path, limit: int | None, kind: str | None, on_damage: OnDamage | None, stage: str | None
) -> int:
    """Write the file, also for a failed job; raise `JobFailed` after it is written."""
    from batchmill.cli.exports import open_export
    from batchmill.errors import JobFailed
    from batchmill.wording import count

    rows, failure = 0, None
    with open_export(path, kind) as export:
        try:
            for page in job.pages(export.content_type, on_damage=on_damage, stage=stage):
                first = page if limit is None else page.first(limit - rows)
                export.write(first)
                rows += first.rows
                if rows == limit:
                    break
        except JobFailed as error:
            failure = error
        export.finish(path)
    if failure is not None:
        failure.hint = f"Its {count(rows, 'finished row')} {'is' if rows == 1 else 'are'} in {path}."
        raise failure
    return rows


def _print_summary(status: JobStatus, rows: int, path: Path | None, *, is_cut: bool) -> None:
    from batchmill.jobs.job import JobState
    from batchmill.wording import count

    notes = []
    if path is not None:
        notes.append(f"wrote {count(rows)} to {path}")
    if status.rows_dead and not is_cut:
        notes.append(f"{count(status.rows_dead, 'failed row')} {'is' if status.rows_dead == 1 else 'are'} not included")
    if status.state is JobState.CANCELLED:
        notes.append("the job was cancelled: only its finished rows are included")
    if status.state is JobState.EXPIRED:
        notes.append("the job's deadline passed: only the rows finished by then are included")
    if notes:
        click.echo("; ".join(notes), err=True)
    if status.state is not JobState.COMPLETED and not is_cut:
        raise click.exceptions.Exit(1)
