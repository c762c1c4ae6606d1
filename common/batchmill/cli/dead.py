"""`batchmill dead` and `batchmill replay`: list, run again or delete the failed rows of a job."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from batchmill.cli.arguments.options import json_option, service_options
from batchmill.cli.arguments.selection import find_job, job_argument
from batchmill.errors import InvalidRequest

if TYPE_CHECKING:
    from batchmill.client import Client, Job

rows_option = click.option("--row", "rows", type=int, multiple=True, metavar="N", help="Only this row; repeatable.")
stage_option = click.option("--stage", metavar="NAME", help="Only rows that failed in this stage.")
error_option = click.option("--error", "error_type", metavar="TYPE", help="Only rows that failed with this error.")


@click.command()
@job_argument
@click.option("--traceback", is_flag=True, help="Show the traceback of each row.")
@click.option(
    "--export",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write all dead letters, or those of --stage, to a .jsonl file.",
)
@click.option("--purge", is_flag=True, help="Delete the dead letters, including their rows, instead of listing them.")
@stage_option
@rows_option
@error_option
@json_option
@service_options
def dead(
    client: Client,
    job_id: str,
    traceback: bool,
    path: Path | None,
    purge: bool,
    stage: str | None,
    rows: tuple[int, ...],
    error_type: str | None,
    as_json: bool,
) -> None:
    """List the failed rows of a job.

    They are in input order, with counts by error type. With --json, print one JSON object per line, with the row,
    its error, its traceback and its attempts.
    """
    from batchmill.wording import count

    if path is not None and not purge and (rows or error_type):
        raise InvalidRequest("--export cannot be combined with --row and --error.", hint="It writes all dead letters.")
    job = find_job(client, job_id)
    if path is not None:
        click.echo(f"wrote {count(job.export_dead_letters(path, stage=stage), 'dead letter')} to {path}", err=True)
    if purge:
        purged = job.purge_dead_letters(rows or None, error_type=error_type, stage=stage)
        click.echo(f"deleted {count(purged, 'dead letter')}", err=True)
    elif path is None:
        _list(job, stage, set(rows), error_type, traceback=traceback, as_json=as_json)


def _list(
    job: Job, stage: str | None, rows: set[int], error_type: str | None, *, traceback: bool, as_json: bool
) -> None:
    from batchmill.cli.terminal.console import print_json, print_table
    from batchmill.cli.terminal.tables import Column
    from batchmill.wording import printable

    letters = [
        letter
        for letter in job.dead_letters(stage=stage)
        if (not rows or letter.index in rows) and error_type in (None, letter.error_type)
    ]
    if as_json:
        for letter in letters:
            print_json(letter)
        return
    if not letters:
        _explain_none(job, stage, is_filtered=bool(rows or error_type))
        return
    stages = [one.name for one in job.status().stages]
    is_chain = len(stages) > 1
    table = [
        (
            *([stages[one.stage], ".".join(map(str, one.path))] if is_chain else []),
            *(str(one.index), one.error_type, str(one.attempts), one.worker or "-", one.message),
        )
        for one in letters
    ]
    columns: list[Column | str] = [*(["STAGE", "PATH"] if is_chain else []), "ROW", "ERROR", "ATTEMPTS"]
    columns += [Column("WORKER", is_text=True), Column("MESSAGE", is_below=True)]
    print_table(columns, table, empty="")
    if traceback:
        for letter in letters:
            lines = (letter.traceback or letter.message).splitlines()
            click.echo("\n".join(printable(line) for line in (f"row {letter.index}: {letter.row}", *lines)) + "\n")
    for kind, number in Counter(letter.error_type for letter in letters).most_common():
        click.echo(f"{number} of {printable(kind)}")


def _explain_none(job: Job, stage: str | None, *, is_filtered: bool) -> None:
    """Print that no failed row is listed, and which there are."""
    from batchmill.wording import printable

    kinds = ", ".join(f"{kind} {number:,}" for kind, number in job.dead_letter_counts().items())
    where = f" in stage {stage}" if stage is not None else ""
    which = " with that row or error" if is_filtered and kinds else ""
    there_are = f"; there are: {kinds}" if kinds else ""
    click.echo(printable(f"{job.id} has no dead letters{where}{which}{there_are}."), err=True)


@click.command()
@job_argument
@click.option(
    "--stage", metavar="NAME", help="The stage that the rows failed in; needed if rows failed in several stages."
)
@rows_option
@error_option
@click.option(
    "--edits",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="New values for rows: edited lines of `batchmill dead --export`.",
)
@click.option("--wait", is_flag=True, help="Wait until the replay has ended.")
@json_option
@service_options
def replay(
    client: Client,
    job_id: str,
    stage: str | None,
    rows: tuple[int, ...],
    error_type: str | None,
    edits: Path | None,
    wait: bool,
    as_json: bool,
) -> None:
    """Run failed rows of a job again.

    Their results are inserted into the job's results, in input order. The job must have ended. The replay is a
    separate job, whose id is printed; `batchmill watch` follows it.
    """
    from batchmill.cli.terminal.replayed import show_replayed

    first = find_job(client, job_id)
    job = first.replay(
        rows or None, stage=stage, error_type=error_type, edits=None if edits is None else _read_edits(edits)
    )
    show_replayed(job, first, "failed again", wait=wait, as_json=as_json)


def _read_edits(path: Path) -> dict[int, dict[str, Any]]:
    """Read a file of edits: rows by index. Raises `InvalidRows`, naming the line."""
    from batchmill.errors import InvalidRows

    edits: dict[int, dict[str, Any]] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                letter = json.loads(line)
                edits[int(letter["index"])] = dict(letter["row"])
            except (ValueError, TypeError, KeyError) as error:
                raise InvalidRows(
                    f'{path}:{number}: expected {{"index": …, "row": {{…}}}}, got {line.strip()!r:.80}.',
                    hint="Write the file with `batchmill dead JOB --export FILE`, then change the values in `row`.",
                ) from error
    return edits
