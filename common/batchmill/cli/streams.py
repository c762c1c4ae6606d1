"""`batchmill streams`: the jobs that read streams, and the streams to which rows are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from batchmill.cli.arguments.options import json_option, service_options

if TYPE_CHECKING:
    from batchmill.client import Client
    from batchmill.jobs.status import JobStatus

MAX_JOBS = 1000


@click.command()
@json_option
@service_options
def streams(client: Client, as_json: bool) -> None:
    """List the jobs that read streams, with their lag and watermark, and the streams to which rows were sent.

    With --json, print one JSON object per line.
    """
    from batchmill.cli.terminal.console import print_json, print_table
    from batchmill.cli.terminal.tables import Column

    live = [job.latest for job in client.live_jobs(MAX_JOBS)]
    reading = [status for status in live if status is not None and status.stream is not None]
    sent = client.streams()
    if as_json:
        for one in [*reading, *sent]:
            print_json(one)
        return
    columns = (
        "JOB",
        "STATE",
        Column("STREAM", is_text=True),
        "ROWS",
        "LAG",
        "WATERMARK",
        Column("AWAY", is_below=True),
    )
    print_table(columns, [_row(status) for status in reading], empty="No job reads a stream.")
    if sent:
        from batchmill.wording import byte_size

        click.echo()
        print_table(
            ("SENT TO", "ROWS", "NOT SETTLED"),
            [(one.name, f"{one.rows:,}", byte_size(one.nbytes)) for one in sent],
            empty="",
        )


def _row(status: JobStatus) -> tuple[str, ...]:
    from batchmill.wording import state

    stream = status.stream
    if stream is None:
        raise AssertionError(f"job {status.id} reads no stream")
    return (
        status.id,
        state(status),
        stream.source,
        f"{status.rows_done + status.rows_dead:,}",
        "?" if stream.lag is None else f"{stream.lag:,}",
        "" if stream.watermark_at is None else _moment(stream.watermark_at),
        stream.away or "",
    )


def _moment(at: float) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S} UTC"
