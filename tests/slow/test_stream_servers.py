"""Jobs over Kafka and NATS while their servers are away and workers and leaders are killed: each row once, in order."""

from __future__ import annotations

import random
from functools import partial
from typing import TYPE_CHECKING, Any

import batchmill
from support.stream_kinds import encoded
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from support.cluster import Cluster
    from support.stream_servers import KafkaServer, NatsServer

ROWS = 2000
STEPS = 5


def test_each_message_of_kafka_has_one_result_whatever_fails(
    cluster: Callable[..., Cluster], kafka_server: KafkaServer, tmp_path: Path
) -> None:
    kafka_server.create("events", partitions=2)

    def add(first: int, count: int) -> None:
        for partition in range(2):
            values = [encoded({"id": n, "text": "x", "p": partition}) for n in range(first, first + count)]
            kafka_server.add("events", values[partition::2], partition)

    results = _results_in_spite_of_faults(
        cluster,
        kafka_server,
        batchmill.Kafka("events"),
        add,
        tmp_path,
        lambda: kafka_server.committed("events") == ROWS,
    )
    for partition in range(2):
        found = [row["id"] for row in results if row["p"] == partition]
        assert found == list(range(partition, ROWS, 2))


def test_each_message_of_nats_has_one_result_whatever_fails(
    cluster: Callable[..., Cluster], nats_server: NatsServer, tmp_path: Path
) -> None:
    nats_server.create("events")

    def add(first: int, count: int) -> None:
        nats_server.add("events", [encoded({"id": n, "text": "x"}) for n in range(first, first + count)])

    source = batchmill.Nats("events", trim=True)
    results = _results_in_spite_of_faults(
        cluster, nats_server, source, add, tmp_path, lambda: nats_server.first("events") == ROWS + 1
    )
    assert [row["id"] for row in results] == list(range(ROWS))


def _results_in_spite_of_faults(
    cluster: Callable[..., Cluster],
    server: KafkaServer | NatsServer,
    source: batchmill.Kafka | batchmill.Nats,
    add: Callable[[int, int], None],
    folder: Path,
    is_settled: Callable[[], bool],
) -> Sequence[dict[str, Any]]:
    rng = random.Random(17)
    names = folder / "servers.toml"
    names.write_text(f'[{source.kind}]\nurl = "{server.url}"\n')
    running = cluster(STREAM_SERVERS=names).start(coordinators=2, slots=(1, 1))
    stages = [batchmill.Stage("shout", name="one"), batchmill.Stage("shout", name="two", mark="?")]
    stream = running.ask(lambda client: client.submit(source=source, stages=stages))
    for step in range(STEPS):
        add(step * ROWS // STEPS, ROWS // STEPS)
        if step == 1:
            with server.away():
                until(partial(_says_that_it_is_away, running, stream.id), "the report that the source is away")
        elif step % 2:
            _kill_leader(running)
        else:
            rng.choice(running.slots()).kill()
        until(partial(_has_done, running, stream.id, (step + 1) * ROWS // STEPS), "the rows of the step")
    until(is_settled, "the report to the source of what is settled")
    running.ask(lambda client: client.job(stream.id).drain())
    results: list[dict[str, Any]] = running.ask(lambda client: list(client.job(stream.id).wait(GRACE_S).results()))
    return results


def _says_that_it_is_away(running: Cluster, job_id: str) -> bool:
    status = running.ask(lambda client: client.job(job_id).status())
    return status.stream is not None and status.stream.away is not None


def _has_done(running: Cluster, job_id: str, rows: int) -> bool:
    status = running.ask(lambda client: client.job(job_id).status())
    assert status.rows_dead == 0
    return bool(status.rows_done == rows)


def _kill_leader(running: Cluster) -> None:
    until(lambda: running.leader() is not None, "a leader")
    leader = running.leader()
    assert leader is not None
    (name,) = [name for name, one in running.coordinators.items() if one is leader]
    leader.kill()
    running.start_coordinator(name)
