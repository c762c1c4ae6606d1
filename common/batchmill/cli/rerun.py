"""`batchmill rerun`: run the later stages of a job again, changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from batchmill.cli.arguments.options import json_option, service_options
from batchmill.cli.arguments.selection import find_job, job_argument
from batchmill.cli.arguments.values import Parameter
from batchmill.errors import InvalidRequest

if TYPE_CHECKING:
    from batchmill.client import Client

EPILOG = """\b
Example:
  batchmill rerun JOB --from embed --set embed.params.model=NAME --wait
"""


@click.command(epilog=EPILOG)
@job_argument
@click.option("--from", "from_stage", required=True, metavar="STAGE", help="The first stage that is run again.")
@click.option(
    "--set",
    "changes",
    type=Parameter(),
    multiple=True,
    metavar="PLACE=VALUE",
    help="Change a stage: --set embed.params.model=NAME, --set embed.pool=gpu. The value is parsed as JSON, else taken "
    "as text; repeatable.",
)
@click.option(
    "--output",
    "-o",
    metavar="PATH",
    help="A folder for the results, or one file (.parquet, .jsonl, .arrow), as a path or URI; without it the service "
    "keeps them.",
)
@click.option("--name", help="A name for the new job.  [default: as the job]")
@click.option("--wait", is_flag=True, help="Follow the new job until it ends.")
@json_option
@service_options
def rerun(
    client: Client,
    job_id: str,
    from_stage: str,
    changes: tuple[tuple[str, Any], ...],
    output: str | None,
    name: str | None,
    wait: bool,
    as_json: bool,
) -> None:
    """Run the later stages of a job again.

    They read what is kept of the stage before them: the job must have ended, and that stage must have been submitted
    with keep. The results are those of a new
    job, whose id is printed; the first job stays as it is.
    """
    from batchmill.cli.submit import follow

    first = find_job(client, job_id)
    job = client.rerun(first, from_stage, stages=stage_changes(changes), output=output, name=name)
    follow(job, wait=wait, as_json=as_json)


def stage_changes(changes: tuple[tuple[str, Any], ...]) -> dict[str, dict[str, Any]]:
    """Sort changes such as `embed.params.model` by stage. Raises `InvalidRequest` for a place in no stage."""
    stages: dict[str, dict[str, Any]] = {}
    for place, value in changes:
        stage, *names = place.split(".")
        target = stages.setdefault(stage, {})
        for name in names[:-1]:
            target = target.setdefault(name, {})
            if not isinstance(target, dict):
                break
        if not names or not isinstance(target, dict):
            raise InvalidRequest(
                f"--set {place}: there is no such place in a stage.",
                hint="A stage is named: --set STAGE.params.NAME=VALUE.",
                field=place,
            )
        target[names[-1]] = value
    return stages
