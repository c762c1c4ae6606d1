"""`batchmill peek`: look at what a stage of a job has made."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from batchmill.cli.arguments.options import service_options
from batchmill.cli.arguments.selection import find_job, job_argument

if TYPE_CHECKING:
    from batchmill.client import Client
    from batchmill.jobs.status import StageStatus


@click.command()
@job_argument
@click.option("--stage", metavar="NAME", help="The stage; without it the last one, whose results are those of the job.")
@click.option(
    "--rows", "-n", type=click.IntRange(min=1, max=100_000), default=5, show_default=True, help="At most this many."
)
@service_options
def peek(client: Client, job_id: str, stage: str | None, rows: int) -> None:
    """Show the first results of a stage, of a job that may still run.

    They are JSON Lines. Those that the next stage has settled are gone, unless the stage was submitted with keep.
    """
    from batchmill.jobs.dead_letters import json_value

    job = find_job(client, job_id)
    status = job.status()
    name = status.stages[-1].name if stage is None else stage
    found = job.stage(name).peek(rows)
    for row in found:
        click.echo(json.dumps(json_value(row), ensure_ascii=False))
    if not found:
        click.echo(f"no results of stage {name} are there now{_why_none(status.stages[name])}", err=True)


def _why_none(stage: StageStatus) -> str:
    if not stage.results:
        return ""
    return ": the next stage has settled them, and the stage was submitted without keep=true"
