"""`batchmill redo`: compute damaged or missing results of a job again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchmill.cli.arguments.options import json_option, service_options
from batchmill.cli.arguments.selection import find_job, job_argument

if TYPE_CHECKING:
    from batchmill.client import Client


@click.command()
@job_argument
@click.option(
    "--shard",
    "shards",
    multiple=True,
    metavar="ID",
    help="Check only this shard, which an error about damaged results names; repeatable.",
)
@click.option("--wait", is_flag=True, help="Wait until the results are in place.")
@json_option
@service_options
def redo(client: Client, job_id: str, shards: tuple[str, ...], wait: bool, as_json: bool) -> None:
    """Compute damaged or missing results of a job again.

    All results are checked, or those of the named shards.

    The job must have ended, and its source must be as it was. All rows of the damaged shards are run by a separate job,
    whose id is printed; `batchmill watch` follows it.
    """
    from batchmill.cli.terminal.replayed import show_replayed

    first = find_job(client, job_id)
    show_replayed(first.redo(shards or None), first, "failed", wait=wait, as_json=as_json)
