"""Error replies of Redis, provoked under a real service: health, readiness, recovery, and a right job after each."""

from __future__ import annotations

import http.client
import json
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from support.cluster import Cluster
from support.error_replies import (
    busy_script,
    channels_forbidden,
    client_limit,
    disk_fault,
    keys_forbidden,
    loading,
    masterdown,
    out_of_memory,
    password_changed,
    readonly,
    scripts_forbidden,
    scripts_lost,
    too_few_replicas,
)
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from batchmill import Job

log = logging.getLogger(__name__)

FAULT_S = 4.0
READY_S = 5.0
FIRST_ROW_S = 10.0
SLACK_S = 4.0  # of a machine with other work
HEALTH_S = 2.0  # 1 s is promised, on an idle machine
ROWS = 30
LEASES: dict[str, Any] = {"LEASE_TTL_S": 10, "LEADER_TTL_S": 5}  # those of a real deployment: recovery is measured
DIED = ("Exception in thread", "Unrecoverable error", "cannot work without it", "Traceback")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A service with the leases of a real one, whose Valkey the tests of this module break and restore."""
    with Cluster(tmp_path_factory.mktemp("stack"), "mill_operators", **LEASES) as cluster:
        yield cluster.start()


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
