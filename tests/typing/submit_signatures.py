"""Calls of `submit` as type checkers see them; `make types` checks this file, nothing runs it.

A comment `type: ignore[code]` marks a call that must be refused: strict mypy reports one that it accepts, too.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import assert_type

import batchmill


def every_option_is_typed(client: batchmill.Client) -> None:
    job = client.submit(
        "embed",
        [{"text": "a"}],
        params={"model": "m"},
        output=Path("out"),
        carry=["text"],
        name="first",
        pool="gpu",
        priority=5,
        deadline=timedelta(hours=2),
        retry=batchmill.RetryPolicy(max_attempts=5),
        batch=batchmill.BatchPolicy(size=32),
        cache=True,
        budget=5.0,
        idempotency_key="once",
    )
    assert_type(job, batchmill.Job)
    client.submit("echo", source=["a.jsonl", Path("b.jsonl")], output={"path": "out", "format": "jsonl"})
    client.submit("echo", source="a.jsonl", deadline=datetime.now(UTC), pool=None, budget=None)


def options_can_be_collected_first(client: batchmill.Client) -> None:
    options: batchmill.JobOptions = {"source": "a.jsonl", "cache": True}
    options["priority"] = 3
    client.submit("echo", **options)


def a_job_has_an_operator_or_stages(client: batchmill.Client) -> None:
    client.submit(source="a.jsonl", stages=[batchmill.Stage("chunk", size=200), {"operator": "echo"}])


def wrong_options_are_refused(client: batchmill.Client) -> None:
    client.submit("echo", source="a.jsonl", prioritty=5)  # type: ignore[call-arg]
    client.submit("echo", source="a.jsonl", priority="high")  # type: ignore[arg-type]
    client.submit("echo", source=7)  # type: ignore[arg-type]
    client.submit("echo", source="a.jsonl", cache="yes")  # type: ignore[arg-type]
    client.submit(source="a.jsonl", stages="chunk")  # type: ignore[arg-type]


async def both_clients_take_the_same_options(client: batchmill.AsyncClient, options: batchmill.JobOptions) -> None:
    assert_type(await client.submit("echo", **options), batchmill.AsyncJob)
    await client.submit("echo", source="a.jsonl", prioritty=5)  # type: ignore[call-arg]
