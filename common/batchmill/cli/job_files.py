"""`batchmill check` and `batchmill try`: what a job file would run, and what it makes of a few rows."""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchmill.cli import FAILED
from batchmill.cli.arguments.options import json_option, service_options
from batchmill.cli.arguments.values import Parameter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.client import Client, Job
    from batchmill.client.submitting.options import JobOptions
    from batchmill.client.submitting.stage import Stage

MAX_VALUE_CHARS = 60
MAX_SHOWN = 5  # results of a row at one stage

file_argument = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
set_option = click.option(
    "--set",
    "changes",
    type=Parameter(),
    multiple=True,
    metavar="PLACE=VALUE",
    help="Change a value of the file: --set embed.params.model=NAME, --set source.limit=100. The value is parsed as "
    "JSON, else taken as text; repeatable.",
)


@click.command()
@file_argument
@set_option
@json_option
@service_options
def check(client: Client, file: Path, changes: tuple[tuple[str, Any], ...], as_json: bool) -> None:
    """Check a job FILE and submit nothing.

    The operators, their parameters and the columns of the source are checked as for `batchmill submit`.
    """
    from batchmill.cli.terminal.console import fields, found_input, print_json, print_notes
    from batchmill.client.submitting.job_file import read_job_file

    options = read_job_file(file, changes)
    found = client.check(**options)
    if as_json:
        print_json(found)
        return
    fields([*found_input(found), *(_described(stage) for stage in options.get("stages") or ())])
    click.echo("The job is valid; nothing was submitted.")
    print_notes(found)


def _described(stage: Any) -> tuple[str, str]:
    form = stage.form
    params = ", ".join(f"{name}={value!r}" for name, value in form.params.items())
    pool = f", pool {form.pool}" if form.pool else ""
    return f"stage {form.name or form.operator}", f"{form.operator}({params}){pool}"


@click.command(name="try")
@file_argument
@click.option("--rows", type=click.IntRange(1, 1000), default=20, show_default=True, help="Run this many rows.")
@set_option
@service_options
def try_(client: Client, file: Path, rows: int, changes: tuple[tuple[str, Any], ...]) -> None:
    """Run the first rows of a job FILE and show what each stage made.

    Nothing is written to the file's output, and the job is deleted afterwards. A row is shown with its path: the index
    of the row in the source, then its number among the results of each stage that makes several.
    """
    from batchmill.cli.terminal.progress import display
    from batchmill.client.submitting.job_file import read_job_file

    options = read_job_file(file, changes)
    job = client.submit(**_trial(options, rows, file.name))
    try:
        with display(sys.stderr, plain=False) as shown:
            for status in job.watch():
                shown.show(status)
        _show(job)
        error = job.status().error
    finally:
        _remove(job)
    if error is not None:
        click.echo(f"failed: {error.message}", err=True)
        sys.exit(FAILED)


def _trial(options: JobOptions, rows: int, name: str) -> JobOptions:
    """Make options that run the first rows, keep what is between the stages, and write no output."""
    source = options.get("source")
    fields: dict[str, Any] = dict(source) if isinstance(source, dict) else {"path": source}
    stages: list[Stage] = list(options.get("stages") or ())  # type: ignore[arg-type]  # read_job_file makes them
    for stage in stages:
        stage.form = stage.form.model_copy(update={"keep": True})
    trial: JobOptions = {**options, "source": fields | {"limit": rows}, "stages": stages, "name": f"try {name}"}
    trial.pop("output", None)
    trial.pop("sink", None)
    return trial


def _remove(job: Job) -> None:
    """Delete the job; stop it first if it was interrupted."""
    if not job.status().is_final:
        job.cancel()
        for _ in job.watch():
            pass
    job.delete()


def _show(job: Job) -> None:
    from batchmill.wording import printable

    stages = job.status().stages
    made: dict[int, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    known: set[str] = set()
    for number, stage in enumerate(stages):
        rows = job.stage(stage.name).peek(100_000)
        new = {name for row in rows[:1] for name in row} - known or {name for row in rows[:1] for name in row}
        known |= {name for row in rows[:1] for name in row}
        for row in rows:
            path = (row.get("source_row", 0), *(row.get("source_path") or ()))
            made[path[0]][number].append(f"{_path(path)}  {_values(row, new)}")
        for letter in job.dead_letters(stage=stage.name):
            path = letter.path or (letter.index,)
            made[path[0]][number].append(f"{_path(path)}  failed: {letter.error_type}: {letter.message}")
    for source_row, by_stage in sorted(made.items()):
        click.echo(f"row {source_row}")
        for number, lines in sorted(by_stage.items()):
            for line in _some(f"  {stages[number].name}", lines):
                click.echo(printable(line))
    for stage in stages:
        filtered = f", {stage.rows_filtered:,} without a result" if stage.rows_filtered else ""
        click.echo(f"{stage.name}: {stage.rows_done:,} done, {stage.rows_dead:,} failed{filtered}", err=True)


def _some(title: str, lines: list[str]) -> Iterator[str]:
    yield f"{title}: {len(lines)}" if len(lines) > 1 else title
    yield from (f"    {line}" for line in lines[:MAX_SHOWN])
    if len(lines) > MAX_SHOWN:
        yield f"    and {len(lines) - MAX_SHOWN:,} more"


def _path(path: tuple[int, ...]) -> str:
    return ".".join(map(str, path))


def _values(row: dict[str, Any], names: set[str]) -> str:
    shown = [name for name in row if name in names and name not in ("source_row", "source_path")]
    return ", ".join(f"{name}={_short(row[name])}" for name in shown)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}…"
