"""The leader dies or freezes: another takes over, and the former one writes nothing any more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import psutil

from support.cluster import KEYS, LEADER_LEASE_S, Cluster, free_port, manifest, resume
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batchmill import Job

ROWS = 1200
SLACK_S = 8.0  # a busy machine's; what is promised is the lease and two seconds
WRITES = {"SET", "INCR", "PEXPIRE", "HSET", "HDEL", "HINCRBY", "ZADD", "ZREM", "DEL", "RPUSH", "LREM", "SADD", "SREM"}


def start_job(cluster: Cluster, client: str, folder: Path) -> Job:
    """A job of many shards from a file, most of it not planned yet when its first results are there."""
    source, log = folder / "rows.jsonl", folder / "log"
    source.write_text("".join(f'{{"id": {n}}}\n' for n in range(ROWS)))
    log.mkdir()
    job = cluster.clients[client].submit("steady", source=source, params={"log": str(log)}, output=folder / "out")
    until(lambda: job.status().rows_done > 0, "the first results")
    return job


def finishes_with_every_shard_planned_and_run_once(cluster: Cluster, job: Job, folder: Path) -> None:
    assert [row["id"] for row in job.results()] == list(range(ROWS))
    job.wait(timeout=GRACE_S)
    with cluster.redis() as client:
        fields = client.hgetall(KEYS.stage(job.id, 0))
        shards = client.hkeys(KEYS.done(job.id, 0))
    assert sorted(map(int, shards)) == list(range(int(fields["shards_planned"])))
    assert (int(fields["rows_planned"]), int(fields["rows_done"])) == (ROWS, ROWS)
    assert {path.read_text() for path in (folder / "log").iterdir()} == {"x"}


def test_a_standby_takes_over_from_a_leader_that_is_killed_and_no_shard_is_planned_twice(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    running = cluster(SHARD_TARGET_S=0.3).start(coordinators=2, slots=(2,))
    leader = running.leader()
    assert leader is not None
    standby = "b" if leader.name == "a" else "a"
    job = start_job(running, standby, tmp_path)
    epoch = running.epoch()
    leader.kill()
    killed_at = time.monotonic()
    until(lambda: running.epoch() > epoch, "the standby's lead")
    assert time.monotonic() - killed_at < LEADER_LEASE_S + 2 + SLACK_S
    followed = running.leader()
    assert followed is not None
    assert followed.name == standby
    assert job.status().rows_done < ROWS
    finishes_with_every_shard_planned_and_run_once(running, job, tmp_path)


def test_a_leader_that_is_killed_while_it_closes_an_output_leaves_it_to_the_standby(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    running = cluster().start(coordinators=2, slots=(2,))
    leader = running.leader()
    assert leader is not None
    gate, in_the_way, rows = tmp_path / "gate", tmp_path / "out.manifest.json", [{"id": n} for n in range(40)]
    client = running.clients["b" if leader.name == "a" else "a"]
    job = client.submit("gated", rows=rows, params={"gate": str(gate)}, output=tmp_path / "out")
    in_the_way.mkdir()
    gate.touch()
    until(lambda: f"job {job.id}: its output could not be closed" in running.log(leader.name), "the closing")
    assert job.status().rows_done == len(rows)
    leader.kill()
    in_the_way.rmdir()
    job.wait(timeout=GRACE_S)
    assert [row["id"] for row in job.results()] == list(range(len(rows)))
    parts = manifest(tmp_path / "out")["parts"]
    assert sum(part["rows"] for part in parts) == len(rows)
    assert sorted(path.name for path in (tmp_path / "out").glob("part-*")) == sorted(part["name"] for part in parts)


def test_a_leader_that_freezes_is_replaced_and_writes_nothing_when_it_wakes(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    running = cluster(SHARD_TARGET_S=0.3)
    port = free_port()
    running.start_valkey("--port", str(port), "--bind", "127.0.0.1")
    running.start_coordinator("a", REDIS_URL=f"redis://127.0.0.1:{port}/0")  # by TCP, the others by the socket
    until(lambda: running.leader() is not None, "the first lead")
    running.start_coordinator("b")
    running.start_supervisor(2)
    job = start_job(running, "b", tmp_path)
    frozen, epoch = psutil.Process(running.coordinators["a"].pid), running.epoch()
    frozen.suspend()
    until(lambda: running.epoch() > epoch, "the standby's lead")
    with running.redis() as client, client.monitor() as monitor:
        resume(frozen)
        written = writes_by_tcp(monitor.listen(), seconds=LEADER_LEASE_S + 1)
    assert written == []
    assert running.log("a").rstrip().endswith("this coordinator is on standby")
    assert job.status().rows_done < ROWS
    finishes_with_every_shard_planned_and_run_once(running, job, tmp_path)


def writes_by_tcp(commands: Iterator[dict[str, Any]], seconds: float) -> list[str]:
    """What scripts of clients that came by TCP wrote, in so long a time; such a client must have run some."""
    ends_at, by_tcp, scripts, written = time.monotonic() + seconds, False, 0, []
    for command in commands:
        name = command["command"].split()[0].upper()
        if command["client_type"] != "lua":
            by_tcp = command["client_type"] == "tcp"
            scripts += by_tcp and name == "EVALSHA"
        elif by_tcp and name in WRITES:
            written.append(command["command"])
        if time.monotonic() > ends_at:
            assert scripts > 0
            return written
    raise AssertionError("the monitor ended")
