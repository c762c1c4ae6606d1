"""Error replies of Redis, provoked under a real service: health, readiness, recovery, and a right job after each."""

from __future__ import annotations

import http.client
import json
import logging
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import redis

from support.cluster import free_port
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from batchmill import Job
    from support.cluster import Cluster

log = logging.getLogger(__name__)

FAULT_S = 4.0
READY_S = 5.0
FIRST_ROW_S = 10.0
SLACK_S = 4.0  # of a machine with other work
HEALTH_S = 2.0  # 1 s is promised, on an idle machine
ROWS = 30
DIED = ("Exception in thread", "Unrecoverable error", "cannot work without it", "Traceback")


@contextmanager
def readonly(cluster: Cluster) -> Iterator[None]:
    """A replica of a primary that is not there, as the former primary of a failover."""
    with cluster.redis() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
        try:
            yield
        finally:
            client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def masterdown(cluster: Cluster) -> Iterator[None]:
    """The same, and it answers reads with MASTERDOWN: only the write of a probe gets READONLY."""
    with configured(cluster, "replica-serve-stale-data", "no"), readonly(cluster):
        yield


@contextmanager
def configured(cluster: Cluster, name: str, value: str | int) -> Iterator[Any]:
    with cluster.redis() as client:
        before = client.config_get(name)[name]
        client.config_set(name, value)
        try:
            yield client
        finally:
            client.config_set(name, before)


def out_of_memory(cluster: Cluster) -> AbstractContextManager[None]:
    return configured(cluster, "maxmemory", 1)


def too_few_replicas(cluster: Cluster) -> AbstractContextManager[None]:
    return configured(cluster, "min-replicas-to-write", 1)


@contextmanager
def disk_fault(cluster: Cluster) -> Iterator[None]:
    """Its snapshot cannot be written: a folder has the file's name."""
    blocker = cluster.folder / "valkey" / "dump.rdb"
    blocker.mkdir()
    with configured(cluster, "save", "3600 1"), cluster.redis() as client:
        client.bgsave()
        until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "the failure of the snapshot")
        try:
            yield
        finally:
            blocker.rmdir()
            client.bgsave()
            until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "ok", "the snapshot")


@contextmanager
def busy_script(cluster: Cluster) -> Iterator[None]:
    """Somebody's script runs for some seconds."""
    script = "local ends = redis.call('TIME')[1] + ARGV[1] while tonumber(redis.call('TIME')[1]) < ends do end"

    def hog() -> None:
        with redis.Redis(unix_socket_path=str(cluster.socket), socket_timeout=60) as client:
            client.eval(script, 0, int(FAULT_S))

    with configured(cluster, "busy-reply-threshold", 100):
        thread = threading.Thread(target=hog)
        thread.start()
        try:
            yield
        finally:
            thread.join()


@contextmanager
def client_limit(cluster: Cluster) -> Iterator[None]:
    with configured(cluster, "maxclients", 1) as client:
        cut_connections(client)
        yield


@contextmanager
def password_changed(cluster: Cluster) -> Iterator[None]:
    with configured(cluster, "requirepass", "another") as client:
        cut_connections(client)
        yield


@contextmanager
def scripts_forbidden(cluster: Cluster) -> Iterator[None]:
    with permission(cluster, "-@scripting"):
        yield


@contextmanager
def keys_forbidden(cluster: Cluster) -> Iterator[None]:
    with cluster.redis() as client:
        client.execute_command("ACL", "SETUSER", "default", "resetkeys", "~elsewhere:*")
        try:
            yield
        finally:
            client.execute_command("ACL", "SETUSER", "default", "allkeys")


@contextmanager
def channels_forbidden(cluster: Cluster) -> Iterator[None]:
    with cluster.redis() as client:
        client.execute_command("ACL", "SETUSER", "default", "resetchannels")
        try:
            yield
        finally:
            client.execute_command("ACL", "SETUSER", "default", "allchannels")


@contextmanager
def permission(cluster: Cluster, rule: str) -> Iterator[None]:
    with cluster.redis() as client:
        client.execute_command("ACL", "SETUSER", "default", rule)
        try:
            yield
        finally:
            client.execute_command("ACL", "SETUSER", "default", "+@all")


@contextmanager
def scripts_lost(cluster: Cluster) -> Iterator[None]:
    with cluster.redis() as client:
        client.script_flush()
        try:
            yield
        finally:
            client.script_flush()


@contextmanager
def loading(cluster: Cluster) -> Iterator[None]:
    """The server starts again and takes some seconds to load its data."""
    assert cluster.valkey is not None
    with cluster.redis() as client:
        client.execute_command("DEBUG", "POPULATE", "200", "filler", "1000")
        client.execute_command("BGREWRITEAOF")
        until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0, "the append-only file")
    cluster.valkey.process.terminate()
    cluster.valkey.process.wait()
    cluster.start_valkey("--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024", wait=False)
    try:
        yield
    finally:
        until(cluster.answers, "the end of loading")
        with cluster.redis() as client:
            client.config_set("key-load-delay", 0)


def cut_connections(client: Any) -> None:
    for kind in ("normal", "pubsub"):
        client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")


@dataclass(frozen=True)
class Fault:
    """provoke: lasts while its context does. reason: what `/readyz` says meanwhile; "": it may stay ready."""

    provoke: Callable[[Cluster], AbstractContextManager[None]]
    reason: str


FAULTS = [
    Fault(readonly, "READONLY"),
    Fault(masterdown, "READONLY"),
    Fault(out_of_memory, "OOM"),
    Fault(too_few_replicas, "NOREPLICAS"),
    Fault(disk_fault, "MISCONF"),
    Fault(busy_script, "BUSY"),
    Fault(client_limit, "as many clients as it takes"),
    Fault(password_changed, "requires a password"),
    Fault(scripts_forbidden, ""),
    Fault(keys_forbidden, "NOPERM"),
    Fault(channels_forbidden, ""),
    Fault(scripts_lost, ""),
    Fault(loading, "LOADING"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.provoke.__name__)
def test_an_error_reply_ends_nothing_and_work_resumes_by_itself(stack: Cluster, tmp_path: Path, fault: Fault) -> None:
    pids = [process.pid for process in stack.processes()]
    before = logs(stack)
    client = stack.clients["a"]
    running = slow_job(stack, tmp_path / "running", ROWS)
    until(lambda: running.status().rows_done > 0, "the first row")
    with fault.provoke(stack):
        ends_at = time.monotonic() + FAULT_S
        if fault.reason:
            until(lambda: reported(stack, fault.reason), f"{fault.reason} in readyz")
        while time.monotonic() < ends_at:
            asked_at = time.monotonic()
            assert ask(stack, "/healthz")[0] == 200
            assert time.monotonic() - asked_at < HEALTH_S
            time.sleep(0.2)
    over_at = time.monotonic()
    until(lambda: ask(stack, "/readyz")[0] == 200, "readiness")
    ready_s = time.monotonic() - over_at
    after = stack.ask(lambda _: client.submit("shout", rows=[{"text": "after"}]))
    assert end_of(after) == "completed"
    first_row_s = time.monotonic() - over_at
    log.info("%s: ready after %.1f s, a row after %.1f s", fault.provoke.__name__, ready_s, first_row_s)
    assert [row["loud"] for row in after.results()] == ["AFTER!"]
    assert end_of(running) == "completed"
    assert [row["id"] for row in running.results()] == list(range(ROWS))
    assert running.status().rows_dead == 0
    assert [process.pid for process in stack.processes()] == pids
    written = "".join(text[len(before.get(name, "")) :] for name, text in logs(stack).items())
    assert [word for word in DIED if word in written] == [], written
    assert ready_s < READY_S + SLACK_S
    assert first_row_s < FIRST_ROW_S + SLACK_S


def test_a_submission_meanwhile_is_refused_with_a_reason_and_when_to_try_again(stack: Cluster) -> None:
    with out_of_memory(stack):
        status, headers, body = post(stack, {"operator": "shout", "rows": [{"text": "now"}]})
    assert (status, headers["retry-after"]) == (503, "1")
    assert "out of memory" in body["error"]["message"]
    until(lambda: ask(stack, "/readyz")[0] == 200, "readiness")


def end_of(job: Job) -> str:
    return str(job.wait(timeout=90).status().state)


def logs(stack: Cluster) -> dict[str, str]:
    folder = stack.folder / "logs"
    return {path.name: path.read_text(errors="replace") for path in folder.iterdir() if path.stem != "valkey"}


def slow_job(stack: Cluster, journal: Path, rows: int) -> Job:
    params = {"seconds": 0.2, "journal": str(journal)}
    return stack.clients["a"].submit("slow", rows=[{"id": i} for i in range(rows)], params=params, carry=["id"])


def reported(stack: Cluster, reason: str) -> bool:
    status, readiness = ask(stack, "/readyz")
    return status == 503 and not readiness["ready"] and reason in " ".join(readiness["details"])


def ask(stack: Cluster, path: str) -> tuple[int, Any]:
    where = urlsplit(stack.url("a"))
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def post(stack: Cluster, body: dict[str, Any]) -> tuple[int, dict[str, str], Any]:
    where = urlsplit(stack.url("a"))
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=60)
    headers = {"Authorization": "Bearer cluster-token", "Content-Type": "application/json"}
    try:
        connection.request("POST", "/v1/jobs", json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, json.loads(answer.read())
    finally:
        connection.close()
