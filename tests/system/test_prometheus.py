"""Prometheus over a real run: its rules, and every query of every dashboard."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

import batchmill
from support.cluster import TOKEN as CLIENTS_TOKEN
from support.cluster import Cluster, free_port
from support.dashboards import PanelQuery, queries
from support.prometheus_stack import SHIPPED, Prometheus, prometheus, write_config
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(900)

TOKEN = "scraper"  # noqa: S105  # of a service that only this machine sees
INTERVAL = "20s"
GPU = {"number": "0", "uuid": "GPU-0", "model": "NVIDIA L4", "memory_mb": 24_576, "used_mb": 9_000, "share": 0.7}
ROWS = [{"id": n} for n in range(120)]


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    for command in ("prometheus", "promtool"):
        assert shutil.which(command), "this test needs Prometheus: apt-get install prometheus"


@pytest.fixture(scope="module")
def workers() -> list[str]:
    """Where the two supervisors answer."""
    return [f"127.0.0.1:{free_port()}" for _ in range(2)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, workers: list[str]) -> Iterator[Cluster]:
    """A service with two kinds of devices, each at its price, and a tenant."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "devices.json").write_text(json.dumps([GPU]))
    costs: dict[str, Any] = {
        "TOKENS": f"acme:{CLIENTS_TOKEN}",
        "CURRENCY": "EUR",
        "PRICES": f"cpu=60,{GPU['model']}=3600",
    }
    with Cluster(folder, "mill_operators", METRICS_TOKEN=TOKEN, **costs) as started:
        started.start(coordinators=2, slots=())
        started.start_supervisor(2, WORKER_LISTEN=workers[0])
        started.start_supervisor(devices="cuda:0", WORKER_LISTEN=workers[1], STAND_IN_DEVICES=folder / "devices.json")
        yield started


@pytest.fixture(scope="module")
def watched(cluster: Cluster, workers: list[str]) -> Iterator[Prometheus]:
    """A Prometheus that has seen the service do everything that can be seen."""
    coordinators = [urlsplit(cluster.url(name)).netloc for name in "ab"]
    with prometheus(cluster.folder, {"coordinator": coordinators, "worker": workers}, TOKEN) as asked:
        until(lambda: list(asked.targets().values()) == ["up"] * 4, "the first answers of all four")
        run(cluster.clients["a"], cluster.folder)
        until(lambda: asked.now("sum(batchmill_jobs_finished_total)") == JOBS, "the sight of the last job's end")
        yield asked


JOBS = 7


def run(client: batchmill.Client, folder: Path) -> None:
    """Jobs that succeed, wait, retry, fail, are split, and give up on rows."""
    retry = batchmill.RetryPolicy(max_attempts=2, backoff_s=0.1)
    logs = {name: folder / name for name in ("steady", "flaky")}
    for log in logs.values():
        log.mkdir()
    waits = client.submit("echo", rows=ROWS, pool="nobody", deadline=timedelta(hours=1))
    ends = [
        client.submit("steady", rows=ROWS, params={"log": str(logs["steady"])}),
        client.submit("flaky", rows=ROWS, params={"log": str(logs["flaky"]), "failures": 99}, retry=retry),
        client.submit("picky", rows=ROWS, retry=retry),
        client.submit("killer", rows=ROWS[:16], params={"victim": 5}, retry=retry),
        client.submit("broken", rows=ROWS, retry=retry),
        client.submit("double_arrow", rows=ROWS),
    ]
    for job in ends:
        try:
            job.wait(timeout=GRACE_S)
        except batchmill.JobFailed:
            assert job.status().operator == "broken"
    waits.cancel()


@pytest.mark.parametrize("query", list(queries()), ids=lambda query: f"{query.dashboard}: {query.panel}")
def test_a_panel_is_not_empty(query: PanelQuery, watched: Prometheus) -> None:
    until(lambda: watched.has_values(query.filled(INTERVAL)), f"a value of {query.filled(INTERVAL)}")


def test_every_rule_is_well(watched: Prometheus) -> None:
    until(lambda: set(watched.rules().values()) == {"ok"}, "the evaluation of every rule")


def test_what_prometheus_sums_up_is_what_the_jobs_did(watched: Prometheus) -> None:
    assert watched.now('sum(batchmill_rows_total{operator="steady", outcome="done"})') == len(ROWS)
    assert watched.now('sum(batchmill_rows_total{operator="flaky", outcome="dead"})') == len(ROWS) / 3
    assert watched.now('sum(batchmill_dead_letters_total{operator="flaky", error="ConnectionError"})') == len(ROWS) / 3
    assert watched.now('sum(batchmill_dead_letters_total{operator="killer", error="WorkerLost"})') == 1
    assert watched.now('sum(batchmill_rows_total{operator="killer", outcome="dead"})') == 1
    assert watched.now('sum(batchmill_jobs_finished_total{state="failed"})') == 1
    assert watched.now("sum(batchmill_jobs_submitted_total)") == JOBS
    assert watched.now("sum(batchmill_splits_total)") >= 1
    assert watched.now("sum(batchmill_leader)") == 1


def test_what_prometheus_sums_up_of_costs_is_what_the_service_says(watched: Prometheus, cluster: Cluster) -> None:
    costs = cluster.clients["a"].costs()
    assert costs.all.total > 0
    sums = [f"sum({name})" for name in ("batchmill_cost_total", "batchmill_tenant_cost_total", "batchmill_cost_today")]
    until(lambda: [watched.now(each) for each in sums] == pytest.approx([costs.all.total] * 3), "the total of each sum")
    assert watched.now("sum(batchmill_device_seconds_total)") == pytest.approx(costs.all.total_s)
    assert watched.now('sum(batchmill_tenant_rows_charged_total{tenant="acme"})') == costs.all.rows
    assert watched.now('group(batchmill_currency_info{currency="EUR"})') == 1


@pytest.mark.parametrize("name", ["alerts", "recording"])
def test_the_rules_do_what_their_tests_say(name: str) -> None:
    promtool("test", "rules", f"tests/{name}.yml")


def test_promtool_finds_no_fault_with_the_configuration(tmp_path: Path) -> None:
    promtool("check", "rules", "rules/alerts.yml", "rules/recording.yml")
    shipped = (SHIPPED / "prometheus.yml").read_text()
    for name in ("rules", "token"):
        (tmp_path / name).symlink_to(SHIPPED / name) if name == "rules" else (tmp_path / name).touch()
    config = tmp_path / "shipped.yml"
    config.write_text(shipped.replace("/secrets/metrics/batchmill_metrics_token", str(tmp_path / "token")))
    promtool("check", "config", str(config))
    promtool("check", "config", str(write_config(tmp_path, {"coordinator": [], "worker": []}, TOKEN)))


def promtool(*arguments: str) -> None:
    done = subprocess.run(["promtool", *arguments], cwd=SHIPPED, capture_output=True, text=True, timeout=GRACE_S)
    assert done.returncode == 0, done.stdout + done.stderr
