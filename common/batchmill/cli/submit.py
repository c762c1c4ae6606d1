"""`batchmill submit`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from click.core import ParameterSource

from batchmill.cli.arguments.options import json_option, service_options
from batchmill.cli.arguments.source_options import Names, source_fields, source_options
from batchmill.cli.arguments.submit_flags import JOB_FILE_ENDINGS, SubmitFlags, job_input, job_options
from batchmill.cli.arguments.values import (
    Deadline,
    Parameter,
    SecondsOrSpan,
)
from batchmill.errors import InvalidRequest
from batchmill.jobs.files import MIN_FILE_BYTES, MIN_ROWS_PER_FILE

if TYPE_CHECKING:
    from batchmill.client import Client, Job
    from batchmill.client.submitting.options import JobOptions

_OF_A_FILE = frozenset(
    {"name", "pool", "priority", "deadline", "budget", "idempotency_key", "output", "output_format"}
) | {"max_rows_per_file", "target_file_bytes", "sink", "webhooks"}
"""Options that may be given beside a job file."""

EPILOG = """\b
Examples:
  batchmill submit echo docs.jsonl --wait
  batchmill submit embed 'data/*.parquet' --param model=NAME --output out/
  zcat big.jsonl.gz | batchmill submit embed - --param model=NAME --budget 2
  batchmill submit pipe.toml --set embed.params.model=NAME --wait
  batchmill submit mine s3://bucket/in --param 'labels=["a","b"]' --json
  batchmill submit embed data/ --param model=NAME --deadline 2h --plan

Exit codes: 0 submitted (with --wait: completed), 1 the job failed, was cancelled or expired,
2 the input is wrong and nothing was submitted, 3 the service cannot be reached or does not accept the token.
"""


@click.command(epilog=EPILOG)
@click.argument("operator", metavar="OPERATOR|FILE", required=False)
@click.argument("sources", metavar="[SOURCE]...", nargs=-1)
@click.option(
    "--param",
    "-p",
    "params",
    type=Parameter(),
    multiple=True,
    help="A parameter of the operator; repeatable. The value is parsed as JSON, else taken as text.",
)
@click.option(
    "--params",
    "params_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A JSON file with parameters, as one object; --param overrides single ones.",
)
@click.option(
    "--set",
    "changes",
    type=Parameter(),
    multiple=True,
    metavar="PLACE=VALUE",
    help="Change a value of a job file: --set embed.params.model=NAME. The value is parsed as JSON, else taken as "
    "text; repeatable.",
)
@click.option(
    "--upload", is_flag=True, help="Read the sources here and upload their rows; the service needs no access to them."
)
@source_options
@click.option(
    "--output",
    "-o",
    metavar="PATH",
    help="A folder for the results, or one file (.parquet, .jsonl, .arrow), as a path or URI; without it the service "
    "keeps them.",
)
@click.option(
    "--output-format",
    type=click.Choice(["parquet", "jsonl", "arrow"]),
    help="The format of --output.  [default: parquet]",
)
@click.option(
    "--max-rows-per-file",
    type=click.IntRange(MIN_ROWS_PER_FILE),
    metavar="N",
    help="Rows in a file of the --output folder.",
)
@click.option(
    "--target-file-bytes",
    type=click.IntRange(MIN_FILE_BYTES),
    metavar="N",
    help="About how many bytes a file of the --output folder has.",
)
@click.option(
    "--sink",
    metavar="PATH|STORE:TABLE",
    help="A store for the results instead: a path that ends in .lance or .usearch, or a table of a store that the "
    "service names.",
)
@click.option("--sink-name", metavar="NAME", help="What the index is called in searches.  [default: as the table]")
@click.option("--sink-vector", metavar="COLUMN", help="The column with the vectors.  [default: embedding]")
@click.option("--sink-id", metavar="COLUMN", help="The column that says which document a row is from.")
@click.option(
    "--sink-mode",
    type=click.Choice(["replace", "upsert", "mirror"]),
    help="Which rows that are there go: all, those of the same documents, or also those of documents that are gone.  "
    "[default: replace]",
)
@click.option("--carry", type=Names(), help="Input columns to pass through to the results.  [default: all]")
@click.option("--name", help="A name for the job.")
@click.option("--pool", help="The pool of workers to run on.")
@click.option("--priority", type=click.IntRange(-100, 100), default=0, show_default=True, help="Higher runs first.")
@click.option(
    "--deadline",
    type=Deadline(),
    help="When the job expires unless it has ended: a time from now (30m, 2h) or a date (2030-01-31T17:00).",
)
@click.option("--max-attempts", type=click.IntRange(1, 1000), help="Attempts for a row that fails.  [default: 3]")
@click.option(
    "--max-dead", type=click.FloatRange(0), help="Fail the job when more rows fail: a number, or a share if below 1."
)
@click.option(
    "--retry-on", type=Names(), metavar="ERRORS", help="Retry only these types of errors, such as TimeoutError."
)
@click.option("--never-on", type=Names(), metavar="ERRORS", help="Never retry these types of errors.")
@click.option(
    "--backoff",
    type=SecondsOrSpan(0, 3600),
    metavar="TIME",
    help="Longest wait before the second attempt, in seconds or as 500ms, 2m; it doubles with each further one.  "
    "[default: 1]",
)
@click.option(
    "--budget", type=click.FloatRange(1e-6, 1e6), help="Pause the job when it has cost this much; see `batchmill cost`."
)
@click.option(
    "--on-null",
    type=click.Choice(["dead", "skip", "fail"]),
    default="dead",
    show_default=True,
    help="Whether a row without a value that the operator requires becomes a dead letter, has no result, or fails the "
    "job.",
)
@click.option(
    "--batch-size", type=click.IntRange(1), help="Fixed number of rows per batch.  [default: as the operator says]"
)
@click.option(
    "--cache", is_flag=True, help="Use the row cache for rows that were computed before, and add new results to it."
)
@click.option(
    "--any-version",
    is_flag=True,
    help="Let different versions of the operator do the rows: a rolling update of the workers never blocks the job.",
)
@click.option(
    "--webhook",
    "webhooks",
    multiple=True,
    metavar="NAME[=URL]",
    help="Send a message when the job has ended to a receiver that the service names, or at a URL of yours with its "
    "secret. Repeatable.",
)
@click.option("--idempotency-key", metavar="KEY", help="Submitting again with the same key returns the existing job.")
@click.option("--wait", is_flag=True, help="Follow the job until it ends.")
@click.option("--dry-run", is_flag=True, help="Check everything and show what would be run; submit nothing.")
@click.option(
    "--plan",
    "is_plan",
    is_flag=True,
    help="Run a sample of the rows, and show what the job would take and cost; submit nothing.",
)
@click.option("--from-plan", metavar="PLAN", help="Submit the job of a plan, without OPERATOR and SOURCE.")
@json_option
@service_options
def submit(
    client: Client,
    operator: str | None,
    sources: tuple[str, ...],
    changes: tuple[tuple[str, Any], ...],
    wait: bool,
    dry_run: bool,
    is_plan: bool,
    from_plan: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Submit a job: OPERATOR over the rows of SOURCE, or the job of a FILE.

    SOURCE is a file, a folder, a glob (in quotes) or a URI such as s3://bucket/path, or several of them: Parquet, JSON
    Lines (plain, gzip, zstd), CSV, Arrow or plain text. The service reads them, so it must have access to
    them; relative paths start at the current folder. `-` uploads rows from stdin instead, one JSON object per line.

    FILE is a job file in TOML or JSON, which ends in .toml or .json. It has all options, and the stages of the job;
    SOURCE, --set, --output and the options about the job, such as --name, change what it says.
    """
    if from_plan is not None or operator is None:
        follow(client.submit_plan(_only_plan(operator, from_plan)), wait=wait, as_json=as_json)
        return
    fields = source_fields(options)
    flags = cast("SubmitFlags", options)
    if is_plan:
        _plan(client, operator, sources, fields, flags, changes, as_json=as_json)
        return
    if operator.endswith(JOB_FILE_ENDINGS):
        from_file = _file_options(Path(operator), sources, fields, flags, changes)
        if dry_run:
            raise InvalidRequest("--dry-run is for operators.", hint=f"Use `batchmill check {operator}`.")
        follow(client.submit(**from_file), wait=wait, as_json=as_json)
        return
    if changes:
        raise InvalidRequest("--set is for job files.", hint="Give parameters with --param.")
    if dry_run:
        _check(client, operator, sources, fields, flags, as_json=as_json)
        return
    follow(submit_job(client, operator, sources, fields, flags), wait=wait, as_json=as_json)


def _only_plan(operator: str | None, from_plan: str | None) -> str:
    """Return the plan to submit from. Raises `InvalidRequest` if something else is given beside it, or nothing is."""
    if from_plan is None:
        raise InvalidRequest(
            "OPERATOR or FILE is missing.", hint="`batchmill operators` lists the operators; --from-plan needs none."
        )
    context = click.get_current_context()
    given = {name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE} - {
        "from_plan",
        "wait",
        "as_json",
        "url",
        "token",
    }
    if given or operator is not None:
        raise InvalidRequest(
            "--from-plan submits a job as it was planned: give nothing else about the job.",
            hint="Plan the changed job anew, with --plan.",
        )
    return from_plan


def _plan(
    client: Client,
    operator: str,
    sources: tuple[str, ...],
    fields: dict[str, Any],
    flags: SubmitFlags,
    changes: tuple[tuple[str, Any], ...],
    *,
    as_json: bool,
) -> None:
    from batchmill.cli.terminal.console import print_json
    from batchmill.cli.terminal.plan_view import show_plan

    if not as_json:
        click.echo("Planning: workers run a sample of the rows, which takes a while …", err=True)
    if operator.endswith(JOB_FILE_ENDINGS):
        plan = client.plan(**_file_options(Path(operator), sources, fields, flags, changes))
    else:
        rows, options = job_input(operator, sources, fields, flags)
        plan = client.plan(operator, rows, **options)
    if as_json:
        print_json(plan)
    else:
        show_plan(plan)


def _file_options(
    path: Path,
    sources: tuple[str, ...],
    fields: dict[str, Any],
    flags: SubmitFlags,
    changes: tuple[tuple[str, Any], ...],
) -> JobOptions:
    """Return the options of a job file, with what the command line changes. Raises `InvalidRequest`."""
    from batchmill.client.submitting.job_file import read_job_file

    context = click.get_current_context()
    given = {
        name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    } & flags.keys()
    own = next((name for name in sorted(given) if name not in _OF_A_FILE), None)
    if own is not None:
        raise InvalidRequest(
            f"{_flag(context.command, own)} cannot be combined with a job file.", hint="Use --set, or change the file."
        )
    options = read_job_file(path, changes)
    changed = {name: value for name, value in job_options(flags).items() if name in given}
    options = cast("JobOptions", {**options, **changed})
    if sources or fields:
        source = options.get("source")
        before = dict(source) if isinstance(source, dict) else {} if source is None else {"path": source}
        paths = {"path": list(sources) if len(sources) > 1 else sources[0]} if sources else {}
        options["source"] = {**before, **paths, **fields}
    return options


def _flag(command: click.Command, name: str) -> str:
    """Return the option that a parameter of a command is given by."""
    return next(option.opts[0] for option in command.params if option.name == name)


def follow(job: Job, *, wait: bool, as_json: bool) -> None:
    """Print the job that was submitted, or follow it until it ends."""
    from batchmill.cli.terminal.progress import watch_to_the_end

    if wait:
        if not as_json:
            click.echo(f"{job.id} submitted")
        watch_to_the_end(job, as_json=as_json)
    elif as_json:
        _print_latest(job)
    else:
        click.echo(f"{job.id} submitted; `batchmill watch {job.id}` follows it")
        _warn_if_blocked(job)


def _warn_if_blocked(job: Job) -> None:
    """Print why a job cannot run, if a user can change that."""
    from batchmill.wording import printable

    if note := job.status().note:
        click.echo(f"blocked: {printable(note)}", err=True)


def _check(
    client: Client,
    operator: str,
    sources: tuple[str, ...],
    fields: dict[str, Any],
    flags: SubmitFlags,
    *,
    as_json: bool,
) -> None:
    from batchmill.cli.terminal.console import fields as print_fields
    from batchmill.cli.terminal.console import found_input, print_json, print_notes

    rows, options = job_input(operator, sources, fields, flags)
    if rows is not None:
        raise InvalidRequest(
            "--dry-run cannot be combined with `-` or --upload.", hint="It checks files that the service reads."
        )
    found = client.check(operator, **options)
    if as_json:
        print_json(found)
        return
    print_fields([("operator", operator), *found_input(found)])
    click.echo("The request is valid; nothing was submitted.")
    print_notes(found)


def submit_job(
    client: Client, operator: str, sources: tuple[str, ...], fields: dict[str, Any], flags: SubmitFlags
) -> Job:
    """Submit the job that a command line describes. fields: of the source, see `source_fields`."""
    rows, options = job_input(operator, sources, fields, flags)
    return client.submit(operator, rows, **options)


def _print_latest(job: Job) -> None:
    from batchmill.cli.terminal.console import print_json

    print_json(job.latest or job.status())
