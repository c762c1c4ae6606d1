"""Windows over Kafka and NATS while Redis is killed and comes back, with messages that are no rows among the others."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

import batchmill
from support.stream_kinds import encoded
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.cluster import Cluster
    from support.stream_servers import KafkaServer, NatsServer

ROWS = 1200
STEPS = 4
START_MS = 1_900_000_020_000
NO_ROWS = (
    b"",
    b"null",
    b"[1]",
    b"{",
    b"\xff\xfe{}",
    b'{"id": 1',
    b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}",
    b'{"__batchmill_x": 1}',
    b'{"\\ud800": 1}',
)
"""Messages that are no rows; each is a dead letter of its own."""


@pytest.mark.parametrize("kind", ["kafka", "nats"])
def test_windows_have_every_row_once_when_redis_is_killed(
    cluster: Callable[..., Cluster], request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    server: KafkaServer | NatsServer = request.getfixturevalue(f"{kind}_server")
    server.create("clicks")
    names = tmp_path / "servers.toml"
    names.write_text(f'[{kind}]\nurl = "{server.url}"\n')
    running = cluster(STREAM_SERVERS=names).start(coordinators=2, slots=(1, 1))
    source = batchmill.Kafka("clicks", max_rows=50) if kind == "kafka" else batchmill.Nats("clicks", max_rows=50)
    window = batchmill.Window(
        by="user", time="at", tumbling="1m", wait="5s", late="1h", aggregate={"ids": "collect:id", "n": "count"}
    )
    stages = [batchmill.Stage("shout", name="one"), window]
    stream = running.ask(lambda client: client.submit(source=source, stages=stages))
    rng = random.Random(17)
    for step in range(STEPS):
        first, last = step * ROWS // STEPS, (step + 1) * ROWS // STEPS
        rows: list[Any] = [_row(rng, number) for number in range(first, last)]
        for place, message in enumerate(NO_ROWS if step == 1 else ()):
            rows.insert(place * 7, message)
        server.add("clicks", [encoded(row) for row in rows])
        until(partial(_has_taken, running, stream.id, first + (last - first) // 2), "some more rows")
        assert running.valkey is not None
        running.valkey.kill()
        running.start_valkey()
    until(partial(_has_taken, running, stream.id, ROWS + len(NO_ROWS)), "all rows")
    running.ask(lambda client: client.job(stream.id).drain())
    made: list[dict[str, Any]] = running.ask(lambda client: list(client.job(stream.id).wait(GRACE_S).results()))
    assert len({(row["window_id"], row["user"], row["revision"]) for row in made}) == len(made), "each fires once"
    latest = {(row["user"], row["window_id"]): row for row in made}  # revisions follow each other
    found = Counter(number for row in latest.values() for number in row["ids"])
    assert found == Counter(range(ROWS))
    assert all(len(row["ids"]) == row["n"] for row in made)
    letters = running.ask(lambda client: list(client.job(stream.id).dead_letters()))
    assert Counter(one.error_type for one in letters) == {"BadMessage": len(NO_ROWS)}


def _row(rng: random.Random, number: int) -> dict[str, Any]:
    at = START_MS + number * 1000 - rng.randrange(20_000)
    return {"id": number, "text": "x", "user": rng.choice("abc"), "at": at}


def _has_taken(running: Cluster, job_id: str, rows: int) -> bool:
    stage = running.ask(lambda client: client.job(job_id).status()).stages[0]
    return stage.rows_done + stage.rows_dead >= rows
