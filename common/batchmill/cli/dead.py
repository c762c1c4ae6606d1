"""`batchmill dead`: the rows that a job gave up on, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchmill.cli.options import json_option, service_options

if TYPE_CHECKING:
    from batchmill.client import Client


@click.command()
@click.argument("job_id", metavar="JOB")
@click.option("--traceback", is_flag=True, help="Show the traceback of each.")
@json_option
@service_options
def dead(client: Client, job_id: str, traceback: bool, as_json: bool) -> None:
    """List the rows that a job gave up on, in input order, and how many died of which error.

    With --json each is one JSON object on a line, with the row, its error, its traceback and its attempts.
    """
    from batchmill.cli.console import print_json, print_table

    job = client.job(job_id)
    letters = job.dead_letters()
    if as_json:
        for letter in letters:
            print_json(letter)
        return
    rows = [(str(one.index), one.error_type, str(one.attempts), one.worker or "-", one.message) for one in letters]
    print_table(("ROW", "ERROR", "ATTEMPTS", "WORKER", "MESSAGE"), rows, empty=f"{job_id} has no dead letters.")
    if traceback:
        for letter in letters:
            click.echo(f"\nrow {letter.index}: {letter.row}\n{letter.traceback or letter.message}")
    for kind, count in sorted(job.dead_letter_counts().items(), key=lambda item: -item[1]):
        click.echo(f"{count} of {kind}")
