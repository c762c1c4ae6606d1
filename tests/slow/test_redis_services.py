"""Servers as managed services set them up: a user with the documented permissions, and cluster mode. Jobs run there."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import redis

import batchmill
from batchmill.embedded.valkey import valkey_command
from batchmill.processes.parent_death import die_with_parent
from batchmill.redis_access.permissions import checked_commands
from support.cluster import free_port
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.cluster import Cluster

PROGRAMS = [name for name in ("", shutil.which("redis-server")) if name is not None]
RULES = "~{prefix}* &* +@all -@admin -@dangerous +info +client"
TAGGED = "{batchmill}:"
OF_THE_CONNECTION = {
    *("hello", "auth", "select", "client|setinfo", "client|setname", "client|id", "eval", "exec", "multi"),
    *("discard", "unwatch", "config|get"),
}
"""What connections send besides; `exec` and the like go with those that are tried."""
OF_THE_TEST = {"cluster|addslotsrange", "cluster|info", "info", "acl|setuser", "ping", "config|resetstat"}


@pytest.fixture(params=PROGRAMS, ids=lambda program: program or "bundled")
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts a server on a port, with these options."""
    started: list[subprocess.Popen[bytes]] = []

    def start(port: int, *options: str) -> Any:
        folder = tmp_path / "redis"
        folder.mkdir()
        bundled, *_ = valkey_command(folder, folder / "s")
        command = [request.param or bundled, "--port", str(port), "--dir", str(folder), "--appendonly", "yes", *options]
        started.append(subprocess.Popen(die_with_parent(command), stdout=subprocess.DEVNULL))
        client = redis.Redis("127.0.0.1", port, decode_responses=True)
        until(lambda: answers(client), "the start of the server")
        return client

    yield start
    for process in started:
        process.kill()
        process.wait()


def answers(client: Any) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def run_jobs(running: Cluster, tmp_path: Path) -> None:
    """Run a small job, a large one with failed rows over files, a replay, a stream, and delete one."""
    running.start_coordinator("a", wait=False)
    running.start_supervisor()
    client = running.clients["a"]
    small = client.submit("shout", rows=[{"text": "a"}])
    assert [row["loud"] for row in small.wait(timeout=90).results()] == ["A!"]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(f'{{"id": {row}}}\n' for row in range(1, 3001)))
    large = client.submit("picky", source=source, output=tmp_path / "out", cache=True)
    until(lambda: large.status().is_final, "the end of a large job")
    assert (large.status().rows_done, large.status().rows_dead) == (2699, 301)
    again = large.replay(error_type="ValueError")
    until(lambda: again.status().is_final, "the end of a replay")
    client.push("events", [{"text": "a"}], producer="one", sequence=1)
    stream = client.submit("shout", source=batchmill.Push("events"))
    until(lambda: stream.status().rows_done == 1, "the result of a row that was sent")
    stream.drain()
    stream.wait(timeout=90)
    small.delete()
    assert running.ask(lambda one: one.pools())


def test_jobs_run_with_the_permissions_that_the_documentation_names_and_all_commands_are_tried_at_the_start(
    cluster: Callable[..., Cluster], server: Callable[..., Any], tmp_path: Path
) -> None:
    port = free_port()
    client = server(port)
    rules = RULES.format(prefix="batchmill:").split(" ")
    client.execute_command("ACL", "SETUSER", "mill", "on", ">secret", *rules)
    client.config_resetstat()
    run_jobs(cluster(REDIS_URL=f"redis://mill:secret@127.0.0.1:{port}/0"), tmp_path)
    stats = client.info("commandstats")
    used = {name.removeprefix("cmdstat_") for name, stat in stats.items() if stat["calls"] > stat["failed_calls"]}
    rejected = {name: stat for name, stat in stats.items() if stat["rejected_calls"]}
    tried = {command[0].lower() for command in checked_commands("batchmill:", "x")} | {"script|load", "script|exists"}
    assert used - tried - OF_THE_CONNECTION - OF_THE_TEST == set()
    assert rejected == {}


def test_jobs_run_in_cluster_mode_with_a_prefix_that_keeps_all_keys_in_one_slot(
    cluster: Callable[..., Cluster], server: Callable[..., Any], tmp_path: Path
) -> None:
    port = free_port()
    client = server(port, "--cluster-enabled", "yes")
    client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
    until(lambda: "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO")), "a cluster that is up")
    run_jobs(cluster(REDIS_URL=f"redis://127.0.0.1:{port}/0", REDIS_PREFIX=TAGGED), tmp_path)
    slots = {client.execute_command("CLUSTER", "KEYSLOT", key) for key in client.scan_iter()}
    assert len(slots) == 1
