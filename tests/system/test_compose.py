"""docker-compose.yml for real: built, started, used from the host, broken, scaled, stopped."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import batchmill
from batchmill.errors import Unauthorized
from support.compose_stack import ComposeStack, compose_stack
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(1500)

OURS = ("valkey", "coordinator", "standby", "worker", "flower")


@pytest.fixture(scope="module")
def stack() -> Iterator[ComposeStack]:
    with compose_stack() as started:
        yield started


@pytest.fixture
def client(stack: ComposeStack) -> Iterator[batchmill.Client]:
    with stack.client() as reached:
        yield reached


def hosts(client: batchmill.Client) -> set[str]:
    """The containers whose workers are there: cpu0@HOST-PID."""
    return {worker.name.partition("@")[2].rpartition("-")[0] for worker in client.workers()}


def test_a_job_goes_through_from_the_host(client: batchmill.Client) -> None:
    job = client.submit("plod", rows=[{"id": n} for n in range(40)], params={"seconds": 0.01})
    assert [(row["id"], row["square"]) for row in job.results()] == [(n, n * n) for n in range(40)]


def test_the_api_and_flower_let_nobody_in_without_the_secrets_that_the_stack_drew(stack: ComposeStack) -> None:
    with batchmill.Client(f"http://127.0.0.1:{stack.api_port}", "guess") as stranger, pytest.raises(Unauthorized):
        stranger.jobs()
    assert stack.flower("/tasks", None)[0] == 401
    assert stack.flower("/tasks", "flower:flower")[0] == 401


@pytest.mark.parametrize("service", OURS)
def test_a_container_is_well_has_no_root_and_cannot_write_its_own_files(stack: ComposeStack, service: str) -> None:
    assert stack.read(service, "id", "-u") == "10001"
    assert stack.read(service, "sh", "-c", "touch /etc/x /opt/x 2>/dev/null || echo read-only") == "read-only"
    check = ["healthy.sh"] if service == "valkey" else ["sh", "-c", CHECKS[service]]
    stack.read(service, *check)


HEALTHY = "python /usr/local/lib/batchmill/healthy.py"
CHECKS = {
    "coordinator": f"{HEALTHY} http://127.0.0.1:8642/readyz",
    "standby": f"{HEALTHY} http://127.0.0.1:8642/readyz",
    "worker": f"{HEALTHY} http://127.0.0.1:8643/healthz",
    "flower": f"{HEALTHY} http://127.0.0.1:5555/healthcheck",
}


def test_the_coordinators_image_has_no_torch_and_the_workers_has_it(stack: ComposeStack) -> None:
    find = "import importlib.util as u; print(u.find_spec('torch') is not None)"
    assert stack.read("coordinator", "python", "-c", find) == "False"
    assert stack.read("worker", "python", "-c", find) == "True"


def test_a_worker_container_killed_in_the_middle_costs_nothing(stack: ComposeStack, client: batchmill.Client) -> None:
    stack.scale(2)
    until(lambda: len(hosts(client)) == 2, "the second worker's start")
    rows = [{"id": n} for n in range(300)]
    job = client.submit("plod", rows=rows, params={"seconds": 0.05})
    until(lambda: bool(job.status().rows_done), "the first rows")
    victim = min(hosts(client))
    stack.kill(victim)

    results = list(job.results())
    assert [(row["id"], row["square"]) for row in results] == [(n, n * n) for n in range(300)]
    assert job.status().state == "completed"


def test_workers_can_be_scaled_and_all_of_them_work(stack: ComposeStack, client: batchmill.Client) -> None:
    stack.scale(3)
    until(lambda: len(hosts(client)) == 3, "the third worker's start")
    job = client.submit("plod", rows=[{"id": n} for n in range(600)], params={"seconds": 0.05})
    assert {row["host"] for row in job.results()} == hosts(client)


def test_flower_shows_the_tasks_of_the_job(stack: ComposeStack, client: batchmill.Client) -> None:
    user = stack.read("flower", "cat", "/secrets/flower/batchmill_flower_users")
    job = client.submit("plod", rows=[{"id": n} for n in range(3)])
    assert len(list(job.results())) == 3

    def is_shown() -> bool:
        status, body = stack.flower("/api/tasks", user)
        assert status == 200
        tasks = [task for task in json.loads(body).values() if f" of {job.id}," in (task["args"] or "")]
        return [(task["name"], task["state"]) for task in tasks] == [("batchmill.plod", "SUCCESS")]

    until(is_shown, "the task's last event")


def test_prometheus_finds_every_coordinator_and_worker(stack: ComposeStack, client: batchmill.Client) -> None:
    def finds_all() -> bool:
        targets = stack.fetch("http://prometheus:9090/api/v1/targets?state=active")["data"]["activeTargets"]
        found = [target["labels"]["job"] for target in targets]
        up = all(target["health"] == "up" for target in targets)
        return up and (found.count("coordinator"), found.count("worker")) == (2, len(hosts(client)))

    until(finds_all, "Prometheus' discovery")


def test_prometheus_evaluates_the_rules_over_what_it_was_told(stack: ComposeStack, client: batchmill.Client) -> None:
    def evaluates() -> bool:
        groups = stack.fetch("http://prometheus:9090/api/v1/rules")["data"]["groups"]
        healths = {rule["health"] for group in groups for rule in group["rules"]}
        told = stack.fetch("http://prometheus:9090/api/v1/query?query=sum(batchmill_workers)")["data"]["result"]
        return healths == {"ok"} and [int(one["value"][1]) for one in told] == [len(client.workers())]

    until(evaluates, "the evaluation of all rules")


def test_the_standby_takes_the_lead_and_gives_the_job_on(stack: ComposeStack, client: batchmill.Client) -> None:
    job = client.submit("plod", rows=[{"id": n} for n in range(400)], params={"seconds": 0.05})
    until(lambda: bool(job.status().rows_done), "the first rows")
    stack.kill(stack.read("coordinator", "hostname"))
    stack.scale(3)
    stack.await_workers()
    with stack.client() as again:
        assert [row["id"] for row in again.job(job.id).results()] == list(range(400))


def test_stopped_workers_drain_and_the_job_goes_on_with_the_next_ones(stack: ComposeStack) -> None:
    with stack.client() as client:
        job = client.submit("plod", rows=[{"id": n} for n in range(400)], params={"seconds": 0.1})
        until(lambda: bool(job.status().rows_done), "the first rows")
        stack.compose("stop", "worker")
        assert client.workers() == []  # they took their leave; a killed one would still be listed
        assert client.job(job.id).status().shards_running == 0
        stack.scale(2)
        assert [row["id"] for row in job.results()] == list(range(400))
