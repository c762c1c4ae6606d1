"""What `batchmill replay` and `batchmill redo` print of the job that they have submitted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchmill.cli.terminal.console import print_json
from batchmill.wording import count

if TYPE_CHECKING:
    from batchmill.client import Job


def show_replayed(job: Job, first: Job, failed: str, *, wait: bool, as_json: bool) -> None:
    """Print the id of a job that runs rows of the job `first` again; with `wait` its result, once it has ended.

    failed: what to say of rows that failed: "failed again".
    """
    if wait:
        job.wait()
    status = job.latest if job.latest is not None else job.status()
    if as_json:
        print_json(status)
        return
    click.echo(job.id)
    if wait:
        dead = f"; {count(status.rows_dead)} {failed}" if status.rows_dead else ""
        click.echo(f"new results for {count(status.rows_done, 'row')} of {first.id}{dead}", err=True)
