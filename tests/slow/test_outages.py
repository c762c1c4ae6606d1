"""The service's own parts fail under a running job: Valkey, its connections, the coordinator."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
import redis

import batchmill
from batchmill.broker import RECONNECT
from support.cluster import KEYS, LEASE_S
from support.processes import children_with, command_line
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import psutil

    from support.cluster import Cluster

OPERATORS = ("mill_operators",)
ROWS = 400
SLACK_S = 10.0  # a busy machine's


class Running:
    """A service of its own, with a job that runs."""

    def __init__(self, client: batchmill.Client, data: Path, folder: Path) -> None:
        self.client = client
        self._data = data
        self.job = client.submit(
            "steady", rows=[{"id": n} for n in range(ROWS)], params={"log": str(folder / "ran")}, carry=["id"]
        )
        until(lambda: self.job.status().rows_done > 0, "the first results")

    def process(self, word: str) -> psutil.Process:
        """The process of this service whose command line has a word."""
        (up,) = children_with(f"{self._data} ")
        (found,) = children_with(word, up.pid)
        return found

    def redis(self) -> redis.Redis:
        line = command_line(self.process("valkey-server"))
        socket = next(part for part in re.split("[ :]", line) if part.endswith("valkey.sock"))
        return redis.Redis(unix_socket_path=socket)

    def finishes_whole(self) -> None:
        """Every row comes back once, in order, and another job goes through too."""
        assert [row["id"] for row in self.job.results()] == list(range(ROWS))
        status = self.job.wait(timeout=GRACE_S).status()
        assert (status.rows_done, status.rows_dead) == (ROWS, 0)
        assert list(self.client.submit("echo", rows=[{"id": 1}]).results()) == [{"id": 1}]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outages")


@pytest.fixture(scope="module")
def mistreated(data: Path) -> Iterator[batchmill.Client]:
    with batchmill.local(workers=2, data_dir=data, operators=OPERATORS) as client:
        yield client


@pytest.fixture
def running(mistreated: batchmill.Client, data: Path, tmp_path: Path) -> Running:
    (tmp_path / "ran").mkdir()
    return Running(mistreated, data, tmp_path)


def test_connections_to_valkey_that_are_cut_cost_nothing(running: Running) -> None:
    with running.redis() as client:
        for kind in ("normal", "pubsub", "normal"):
            client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    running.finishes_whole()


def test_a_valkey_that_is_killed_and_comes_back_from_its_file_costs_nothing(running: Running) -> None:
    valkey = running.process("valkey-server")
    valkey.kill()
    until(lambda: not valkey.is_running(), "Valkey's end")
    running.finishes_whole()


def test_a_valkey_that_stands_still_for_a_while_costs_nothing(running: Running, data: Path) -> None:
    valkey = running.process("valkey-server")
    log = data / "logs" / "coordinator.log"
    noticed = log.read_text().count("the ledger's Redis cannot be reached")
    valkey.suspend()
    try:
        until(
            lambda: log.read_text().count("the ledger's Redis cannot be reached") > noticed,
            "the coordinator's notice of it",
        )
    finally:
        valkey.resume()
    running.finishes_whole()


def test_after_a_long_outage_of_valkey_everybody_is_soon_back_at_work(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    service = cluster().start(slots=(1,))
    (tmp_path / "ran").mkdir()
    rows, params = [{"id": n} for n in range(ROWS)], {"log": str(tmp_path / "ran")}
    job = service.clients["a"].submit("steady", rows=rows, params=params, carry=["id"])
    until(lambda: job.status().rows_done > 0, "the first results")
    assert service.valkey is not None
    service.valkey.kill()
    until(lambda: service.log("worker-1").count("Cannot connect to") >= 8, "a long search for it")
    service.start_valkey()
    back_at = time.monotonic()
    before = service.ask(lambda client: client.job(job.id).status().rows_done)
    until(lambda: service.ask(lambda client: client.job(job.id).status().rows_done) > before, "the next results")
    assert time.monotonic() - back_at < RECONNECT.max_s + LEASE_S + SLACK_S
    assert [row["id"] for row in service.ask(lambda client: list(client.job(job.id).results()))] == list(range(ROWS))


def test_a_row_that_is_at_work_during_a_long_outage_of_valkey_is_not_run_again(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    service, gate = cluster().start(slots=(1,)), tmp_path / "gate"
    started = tmp_path / "gate.started"
    job = service.clients["a"].submit("gated", rows=[{"id": 1}], params={"gate": str(gate)})
    until(lambda: started.exists() and started.read_text() != "", "the row's start")
    assert service.valkey is not None
    service.valkey.kill()
    out_of_reach_at = time.monotonic()
    until(lambda: time.monotonic() - out_of_reach_at > 2 * LEASE_S, "leases to run out unseen")
    service.start_valkey()
    with service.redis() as client:
        back_at = client.time()[0] * 1000
        until(lambda: int(client.get(KEYS.leases_seen()) or 0) > back_at, "the coordinator's look at the leases")
    gate.touch()
    assert [row["id"] for row in service.ask(lambda client: list(client.job(job.id).results()))] == [1]
    assert len(started.read_text().splitlines()) == 1


def test_a_coordinator_that_is_killed_is_started_again_and_goes_on(running: Running) -> None:
    coordinator = running.process("batchmill coordinator")
    coordinator.kill()
    until(lambda: not coordinator.is_running(), "the coordinator's end")
    running.finishes_whole()
