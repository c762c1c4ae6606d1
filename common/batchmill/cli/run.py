"""`batchmill run`: one job over local files, with a service that lives as long as the command."""

from __future__ import annotations

import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from batchmill.cli import FAILED
from batchmill.cli.arguments.source_options import source_fields
from batchmill.cli.arguments.submit_flags import JOB_FILE_ENDINGS, check_sources
from batchmill.cli.submit import submit, submit_job
from batchmill.errors import InvalidRequest, InvalidSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchmill.cli.arguments.submit_flags import SubmitFlags
    from batchmill.client import Client, Job
    from batchmill.jobs.status import JobStatus

WITHOUT_USE = frozenset(
    {
        "operator", "sources", "output", "output_format", "max_rows_per_file", "target_file_bytes",
        "pool", "priority", "budget", "cache", "any_version", "idempotency_key", "webhooks",
        "changes", "upload", "dry_run", "is_plan", "from_plan", "wait", "as_json", "url", "token",
    }
)  # fmt: skip
"""Parameters of `submit` that are no options of `run`: it has a service, a pool and a job of its own."""

EPILOG = """\b
Examples:
  batchmill run echo docs.jsonl | head
  batchmill run embed 'data/*.parquet' --param model=NAME -o vectors.parquet
  batchmill run keywords docs.csv --operators keywords -o keywords.jsonl

Exit codes: 0 the job completed and all its rows were written, 1 the job failed or expired (its finished rows were
written), 2 the input is wrong, 130 interrupted: nothing is kept.
"""


@click.command(epilog=EPILOG)
@click.argument("operator")
@click.argument("sources", metavar="SOURCE...", nargs=-1)
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A .parquet, .arrow, .csv or .jsonl file to write.  [default: JSON Lines on stdout]",
)
@click.option(
    "--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Worker processes on each device."
)
@click.option("--devices", default="auto", show_default=True, help="Devices to use, as in `batchmill worker`.")
@click.option(
    "--operators",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Module with operators that the workers import; repeatable.",
)
def run(
    operator: str,
    sources: tuple[str, ...],
    output: Path | None,
    workers: int,
    devices: str,
    modules: tuple[str, ...],
    **options: Any,
) -> None:
    """Run OPERATOR over files without a service.

    Starts a service for this one job, over a temporary folder, shows the progress, writes the results in input order
    and removes everything else. SOURCE is as for `batchmill submit`; `-` reads JSON Lines from stdin.
    """
    from batchmill.cli.exports import check_path

    if operator.endswith(JOB_FILE_ENDINGS):
        raise InvalidRequest(
            f"`batchmill run` runs one operator, and {operator!r} is a job file.",
            hint=f"Start `batchmill up`, then `batchmill submit {operator} --wait` in another terminal.",
        )
    check_sources(operator, sources)
    _check_files(sources)
    if output is not None:
        check_path(output)
    fields = source_fields(options)
    flags = cast("SubmitFlags", _unused() | options)
    with _service(workers, devices, modules) as client:
        final = _run(submit_job(client, operator, sources, fields, flags), output)
    if final.state != "completed":
        raise click.exceptions.Exit(FAILED)


run.params += [option for option in submit.params if option.name not in WITHOUT_USE]


def _check_files(sources: tuple[str, ...]) -> None:
    """Raise `InvalidSource` if a source is no file here, before a service is started for it."""
    for source in sources:
        is_plain = source != "-" and "://" not in source and not set("*?[{") & set(source)
        if is_plain and not Path(source).exists():
            raise InvalidSource(f"there is no file or folder {source!r}.", hint="Check the path.", file=source)


def _unused() -> dict[str, Any]:
    """Return the values of the options that only `submit` has."""
    return {str(option.name): option.default for option in submit.params if option.name in WITHOUT_USE} | {
        "output": None,
        "priority": 0,
        "cache": False,
        "any_version": False,
        "upload": False,
        "output_format": None,
        "max_rows_per_file": None,
        "target_file_bytes": None,
        "pool": None,
        "budget": None,
        "idempotency_key": None,
        "webhooks": (),
    }


@contextmanager
def _service(workers: int, devices: str, modules: Sequence[str]) -> Iterator[Client]:
    from batchmill import local

    if sys.stderr.isatty():
        click.echo("Starting a service for this job …", err=True)
    with local(workers, operators=modules, devices=devices) as client:
        yield client


def _run(job: Job, output: Path | None) -> JobStatus:
    """Follow the job on stderr, write its results, and print its outcome."""
    from batchmill.cli.results import write_results
    from batchmill.cli.terminal.console import run_outcome
    from batchmill.cli.terminal.progress import Interrupted, display, follow
    from batchmill.errors import JobFailed

    try:
        with display(sys.stderr, plain=False) as where:
            final = follow(job, job.watch(), where)
    except Interrupted as error:
        raise click.Abort from error
    with suppress(JobFailed):  # its finished rows are written, and its outcome says why
        write_results(job, output)
    click.echo(run_outcome(final, output), err=True)
    for letter in job.dead_letters()[:1] if final.rows_dead else ():
        click.echo(letter.traceback or letter.message, err=True)
    return final
