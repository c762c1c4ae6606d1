"""`batchmill webhooks`: the messages about jobs, and sending one again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from batchmill.cli.arguments.options import json_option, service_options

if TYPE_CHECKING:
    from batchmill.client import Client
    from batchmill.jobs.webhooks.delivery import WebhookDelivery


@click.command()
@click.option("--replay", metavar="ID", help="Send a message again, whatever became of it.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="Messages to list, at most.")
@json_option
@service_options
def webhooks(client: Client, replay: str | None, limit: int, as_json: bool) -> None:
    """List messages of webhooks, the newest first.

    Each is shown with what became of it.
    Delivered ones are listed for an hour, those that were given up for a week.

    With --json, print one JSON object per line.
    """
    from batchmill.cli.terminal.console import print_json, print_table
    from batchmill.cli.terminal.tables import Column

    found = client.webhook_deliveries(limit) if replay is None else [client.replay_webhook(replay)]
    if as_json:
        for one in found:
            print_json(one)
        return
    columns = ("ID", "JOB", "TYPE", "WEBHOOK", "STATE", "TRIES", "NEXT", Column("ERROR", is_text=True))
    print_table(
        columns,
        [_shown(one) for one in found],
        empty="No message was sent recently. `batchmill submit … --webhook NAME` asks for them.",
    )


def _shown(one: WebhookDelivery) -> tuple[str, ...]:
    next_at = "-" if one.next_at is None else f"{datetime.fromtimestamp(one.next_at, UTC).astimezone():%H:%M:%S}"
    return one.id, one.job, one.type, one.webhook, one.state, str(one.tries), next_at, one.error or "-"
