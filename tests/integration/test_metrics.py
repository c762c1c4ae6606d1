"""`/metrics` of real services: who is let in, who tells what, and what outlives processes, jobs and the ledger."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from prometheus_client.parser import text_string_to_metric_families

from batchmill.ledger import Ledger
from batchmill.ledger.scripting.connection import connect
from support.cluster import TOKEN, Cluster, free_port
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCRAPER = "scraper"
ECHO = {"operator": "echo", "pool": "default"}
ECHO_STAGE = {**ECHO, "stage": "echo"}


class Watched:
    """A cluster of two coordinators and a worker, and what they tell."""

    def __init__(self, folder: Path) -> None:
        paid: dict[str, Any] = {"TOKENS": f"acme:{TOKEN}", "CURRENCY": "EUR", "PRICE_PER_HOUR": 7200}
        self.cluster = Cluster(folder, "mill_operators", METRICS_TOKEN=SCRAPER, **paid)
        self.worker_url = f"http://127.0.0.1:{free_port()}"

    def start(self) -> None:
        self.cluster.start(coordinators=2, slots=())
        self.cluster.start_supervisor(WORKER_LISTEN=urlsplit(self.worker_url).netloc)

    def coordinator(self, name: str) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
        status, page = ask(self.cluster.url(name), "/metrics", SCRAPER)
        assert status == 200
        return samples(page)

    def worker(self, name: str, **labels: str) -> float:
        status, page = ask(self.worker_url, "/metrics", None)
        assert status == 200
        return samples(page).get(f"batchmill_{name}", {}).get(frozenset(labels.items()), 0.0)

    def leaders(self, name: str, **labels: str) -> list[float]:
        """What the coordinators tell of a metric that only one of them knows."""
        told = [self.coordinator(each).get(f"batchmill_{name}", {}) for each in "ab"]
        return [found[frozenset(labels.items())] for found in told if frozenset(labels.items()) in found]


def ask(url: str, path: str, token: str | None) -> tuple[int, str]:
    with closing(http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)) as connection:
        connection.request("GET", path, headers={} if token is None else {"Authorization": f"Bearer {token}"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def samples(page: str) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    made = Watched(tmp_path_factory.mktemp("watched"))
    with made.cluster:
        made.start()
        yield made


def test_the_scrapers_token_opens_the_metrics_and_the_scale_of_pools_and_nothing_else(watched: Watched) -> None:
    url = watched.cluster.url("a")
    assert [ask(url, "/metrics", token)[0] for token in (None, "guess", SCRAPER)] == [401, 401, 200]
    assert ask(url, "/metrics", TOKEN)[0] == 403  # of one tenant: the metrics are about all
    assert ask(url, "/v1/jobs", SCRAPER)[0] == 401
    assert ask(url, "/v1/pools", SCRAPER)[0] == 401
    path = "/v1/pools/default/scale"
    until(lambda: ask(url, path, SCRAPER)[0] == 200, "the first decision")
    assert [ask(url, path, token)[0] for token in (None, "guess", TOKEN)] == [401, 401, 200]
    assert ask(url, "/v1/pools/no%20pool/scale", SCRAPER)[0] == 422


def test_every_coordinator_says_how_many_workers_a_pool_needs(watched: Watched) -> None:
    """A pool without workers gets one to learn what rows take; a paused job needs none; a pool unknown needs none."""
    client = watched.cluster.clients["a"]

    def wanted(name: str, pool: str) -> int:
        status, text = ask(watched.cluster.url(name), f"/v1/pools/{pool}/scale", SCRAPER)
        assert status == 200, text
        return int(json.loads(text)["workers_wanted"])

    assert [wanted(name, "unheard") for name in "ab"] == [0, 0]
    job = client.submit("echo", rows=[{"id": 1}], pool="later")
    until(lambda: [wanted(name, "later") for name in "ab"] == [1, 1], "the wish for a worker")
    assert client.scale("later").why == "what 1 row will take is not known yet"
    assert next(pool for pool in client.pools() if pool.name == "later").scale == client.scale("later")
    until(lambda: watched.leaders("workers_wanted", pool="later") == [1], "the metric")
    job.pause()
    until(lambda: [wanted(name, "later") for name in "ab"] == [0, 0], "the end of the wish")
    assert ask(watched.cluster.url("a"), "/v1/pools/usage", TOKEN)[0] == 403  # of one tenant: it is about all
    job.cancel()
    until(lambda: job.status().is_final, "the end of the job")
    job.delete()


def test_a_job_is_counted_once_wherever_it_is_counted_and_stays_counted_when_it_is_deleted(watched: Watched) -> None:
    job = watched.cluster.clients["a"].submit("echo", rows=[{"id": n} for n in range(100)])
    assert len(list(job.results())) == 100
    until(lambda: watched.worker("rows_total", **ECHO_STAGE, outcome="done") == 100, "the count of the rows")
    until(lambda: sum(watched.leaders("jobs_finished_total", **ECHO, state="completed")) == 1, "the count of the end")
    until(lambda: watched.worker("slot_seconds_total", slot="cpu0", pool="default", use="batch") > 0, "its time")
    assert watched.leaders("queue_depth_rows", pool="default") == [0]
    assert watched.leaders("workers", pool="default") == [1]
    assert sorted(watched.coordinator(name)["batchmill_leader"][frozenset()] for name in "ab") == [0, 1]

    job.delete()
    until(lambda: watched.leaders("jobs_kept") == [0], "the job's end in the ledger")
    assert watched.worker("rows_total", **ECHO_STAGE, outcome="done") == 100
    assert sum(watched.leaders("jobs_finished_total", **ECHO, state="completed")) == 1
    assert sum(watched.leaders("jobs_submitted_total", **ECHO)) == 1


def test_work_that_nobody_does_is_deep_and_grows_old(watched: Watched) -> None:
    job = watched.cluster.clients["b"].submit("echo", rows=[{"id": 1}], pool="nobody")
    until(lambda: watched.leaders("queue_depth_rows", pool="nobody") == [1], "the depth of the pool without workers")
    assert watched.leaders("workers", pool="nobody") == [0]
    until(lambda: watched.leaders("oldest_wait_seconds", pool="nobody")[0] > 0.5, "the waiting to count")
    job.cancel()


def test_what_a_process_counted_outlives_it_and_its_end_is_counted(watched: Watched) -> None:
    before = watched.worker("rows_total", **ECHO_STAGE, outcome="done")
    assert before == 100
    watched.cluster.slots()[0].kill()
    until(lambda: watched.worker("slot_ends_total", slot="cpu0", pool="default", cause="died") == 1, "the count")
    assert watched.worker("rows_total", **ECHO_STAGE, outcome="done") == before
    job = watched.cluster.clients["a"].submit("echo", rows=[{"id": n} for n in range(10)])
    assert len(list(job.results())) == 10
    until(lambda: watched.worker("rows_total", **ECHO_STAGE, outcome="done") == before + 10, "the next process' count")


def test_costs_are_the_ledgers_totals_whole_by_operator_and_by_tenant_and_outlive_jobs(watched: Watched) -> None:
    client = watched.cluster.clients["a"]
    client.submit("echo", rows=[{"id": n} for n in range(50)]).wait(timeout=GRACE_S).delete()
    everything = client.costs().all
    assert everything.total > 0

    def total(name: str) -> float:
        leader = next(page for page in map(watched.coordinator, "ab") if page["batchmill_leader"][frozenset()])
        return sum(leader.get(f"batchmill_{name}", {}).values())

    until(lambda: total("cost_total") == pytest.approx(everything.total), "a reading after the last charge")
    for of_whom in ("", "tenant_"):
        assert total(f"{of_whom}device_seconds_total") == pytest.approx(everything.total_s)
        assert total(f"{of_whom}rows_charged_total") == everything.rows
    assert total("tenant_cost_total") == pytest.approx(everything.total)
    assert sum(cost_by_day(watched.cluster).values()) == pytest.approx(everything.total)

    def cost_of_today() -> float:  # not of all days: midnight may pass here
        return cost_by_day(watched.cluster).get(datetime.now(UTC).date(), 0.0)

    until(lambda: total("cost_today") == pytest.approx(cost_of_today()), "a reading of the day")
    assert watched.leaders("tenant_rows_charged_total", tenant="acme") == [everything.rows]
    assert watched.leaders("currency_info", currency="EUR") == [1]


def cost_by_day(cluster: Cluster) -> dict[date, float]:
    """What the ledger has for each day, which a tenant may not ask for."""
    with connect(f"unix://{cluster.socket}?db=0") as client:
        totals = Ledger(client, "batchmill:").costs.totals()
    return {one.day: one.total for one in totals.report("EUR", limit=1000).days}


def test_a_job_that_its_budget_holds_is_counted_until_it_may_go_on(watched: Watched, tmp_path: Path) -> None:
    params = {"seconds": 0.01, "journal": str(tmp_path / "journal")}
    job = watched.cluster.clients["a"].submit("slow", rows=[{"id": n} for n in range(400)], params=params, budget=0.2)
    until(lambda: watched.leaders("jobs_over_budget", pool="default") == [1], "the count of the paused job")
    job.resume(budget=1000)
    job.wait(timeout=GRACE_S)
    until(lambda: watched.leaders("jobs_over_budget", pool="default") == [0], "the count of its way on")


def test_a_ledger_that_is_away_is_told_of(watched: Watched) -> None:
    assert watched.cluster.valkey is not None
    watched.cluster.valkey.kill()
    for name in "ab":
        status, text = ask(watched.cluster.url(name), "/v1/pools/default/scale", SCRAPER)
        assert (status, json.loads(text)["error"]["code"]) == (503, "service_unavailable")
    until(lambda: watched.coordinator("a")["batchmill_ledger_up"][frozenset()] == 0, "the word of the ledger's end")
    until(
        lambda: watched.coordinator("a")["batchmill_ledger_failures_total"][frozenset()] > 0,
        "the count of the failures",
    )
    watched.cluster.start_valkey()
    until(lambda: watched.coordinator("a")["batchmill_ledger_up"][frozenset()] == 1, "the word of its return")
