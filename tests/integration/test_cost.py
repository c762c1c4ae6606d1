"""What jobs cost, on a service with real workers: against what the operators say they took."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import batchmill
from batchmill.cli import main
from batchmill.cli.cost import money
from batchmill.jobs.cost import PARTS, CostTotals
from batchmill.jobs.shard import ShardId
from batchmill.jobs.status import JobCost
from support.cluster import KEYS, TOKEN, Cluster
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batchmill.jobs.status import Cost

PER_SECOND = 2.0  # EUR


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A worker that costs 2 EUR a second, and a tenant."""
    settings: dict[str, Any] = {
        "TOKENS": f"other,admin:acme:{TOKEN}",
        "CURRENCY": "EUR",
        "PRICES": f"cpu={PER_SECOND * 3600}",
    }
    folder = tmp_path_factory.mktemp("cost")
    with Cluster(folder, "mill_operators,cost_operators", LEASE_TTL_S=1.0, **settings) as started:
        yield started.start()


@pytest.fixture
def client(cluster: Cluster) -> batchmill.Client:
    return cluster.clients["a"]


def parts_of(cost: Cost) -> dict[str, float]:
    return cost.seconds.model_dump()


def check_sums(cost: Cost) -> None:
    """Parts are whole microseconds and billionths; as floats, their sum may be off by rounding alone."""
    assert sum(parts_of(cost).values()) == pytest.approx(cost.total_s, abs=1e-9)
    assert sum(cost.money.model_dump().values()) == pytest.approx(cost.total, abs=1e-9)
    assert cost.total == pytest.approx(cost.total_s * PER_SECOND, abs=1e-6)


def test_the_parts_are_the_operators_own_times_and_add_up_to_what_was_measured(
    client: batchmill.Client, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    rows = [{"id": n, "size": n % 8 + 1} for n in range(30)]
    submitted = time.monotonic()
    retry = batchmill.RetryPolicy(backoff_s=0.1)
    job = client.submit("billed", rows=rows, params={"journal": str(journal)}, carry=["id"], retry=retry)
    assert list(job.results()) == [{"id": n, "done": n} for n in range(30)]
    status = job.wait(timeout=GRACE_S).status()
    wall_s = time.monotonic() - submitted

    calls = [json.loads(line) for line in journal.read_text().splitlines()]
    expected = Counter[str]()
    for call in calls:
        if call["call"] != "infer":
            expected["load"] += call["seconds"]
        elif call["failed"]:
            expected["retried"] += call["seconds"]
        else:
            useful = sum(call["sizes"]) / (max(call["sizes"]) * len(call["sizes"]))
            expected["useful"] += call["seconds"] * useful
            expected["padding"] += call["seconds"] * (1 - useful)
    assert min(expected[part] for part in PARTS if part not in ("idle", "preempted")) > 0.01

    # The operator's clock stands inside the call, the meter's around it. What lies between is a lock, a file that is
    # written to, and a thread that waits for its turn: milliseconds a call, more on a machine that is busy.
    assert status.cost is not None
    for part in ("useful", "padding", "retried", "load", "preempted"):
        assert expected[part] - 0.01 <= parts_of(status.cost)[part] <= expected[part] + 0.02 * len(calls), part
    assert sum(expected.values()) <= status.cost.total_s <= wall_s
    check_sums(status.cost)
    assert (status.tenant, status.cost.currency, status.cost.rows) == ("acme", "EUR", 30)
    assert status.cost.per_thousand_rows == pytest.approx(status.cost.total / 30 * 1000)
    assert [stage.model_dump(exclude={"stage"}) for stage in status.cost.stages] == [
        status.cost.model_dump(include=set(status.cost.stages[0].model_dump()) - {"stage"})
    ]
    assert job.cost() == status.cost


def test_a_budget_pauses_the_job_and_a_higher_one_finishes_it(client: batchmill.Client, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    params = {"seconds": 0.01, "journal": str(journal)}
    rows = [{"id": n} for n in range(200)]
    job = client.submit("slow", rows=rows, params=params, carry=["id"], budget=1.0)
    until(lambda: job.status().state == "paused", "its pause")
    until(lambda: job.status().shards_running == 0, "its workers letting go")
    paused = job.status()
    assert paused.cost is not None
    assert 1.0 <= paused.cost.total < 1.0 + 2 * PER_SECOND  # what was at work then is let go at its next row
    assert 0 < paused.rows_done < 200
    assert f"of its budget of 1 EUR; `batchmill resume {job.id} --budget N`" in str(paused.note)

    for budget in (None, 0.5):
        with pytest.raises(batchmill.Conflict, match=r"budget of .* does not let it continue.*--budget N"):
            job.resume(budget=budget)
    assert job.status() == paused
    assert job.resume(budget=1000).state == "running"
    assert [row["id"] for row in job.results()] == list(range(200))
    ended = job.wait(timeout=GRACE_S).status()
    assert ended.cost is not None
    assert (ended.cost.budget, ended.cost.rows, ended.note) == (1000.0, 200, None)
    assert ended.cost.total > paused.cost.total
    assert Counter(journal.read_text().split()) == {str(n): 1 for n in range(200)}


@pytest.mark.parametrize("fuse", [True, False])
def test_a_budget_is_of_all_stages_and_pauses_between_rows_of_any(
    client: batchmill.Client, tmp_path: Path, *, fuse: bool
) -> None:
    journals = [tmp_path / name for name in "ab"]
    stages = [
        batchmill.Stage("slow", name=journal.name, seconds=0.01, journal=str(journal), carry=["id"])
        for journal in journals
    ]
    rows = [{"id": n} for n in range(150)]
    job = client.submit(rows=rows, stages=stages, fuse=fuse, budget=1.0)
    until(lambda: job.status().state == "paused", "its pause")
    until(lambda: job.status().shards_running == 0, "its workers letting go")
    paused = job.status()
    assert paused.cost is not None
    assert paused.cost.total >= 1.0
    assert 0 < paused.stages["a"].rows_done <= 2 * 64  # the first shards: what is behind them was not begun
    assert job.resume(budget=1000).state == "running"
    assert [row["id"] for row in job.results()] == list(range(150))
    ended = job.wait(timeout=GRACE_S).status()
    assert [one.fused for one in ended.stages] == [False, fuse]
    assert ended.cost is not None
    check_sums(ended.cost)
    assert [(one.stage, one.rows) for one in ended.cost.stages] == [(0, 150), (1, 150)]
    assert min(one.seconds.useful for one in ended.cost.stages) >= 150 * 0.01
    assert sum(one.total for one in ended.cost.stages) == pytest.approx(ended.cost.total, abs=1e-9)
    for journal in journals:
        assert Counter(journal.read_text().split()) == {str(n): 1 for n in range(150)}


@pytest.mark.slow
def test_an_attempt_that_is_lost_is_charged_as_retried(
    cluster: Cluster, client: batchmill.Client, tmp_path: Path
) -> None:
    gate, submitted = tmp_path / "gate", time.monotonic()
    job = client.submit("gated", rows=[{"id": 0}], params={"gate": str(gate)})
    with cluster.redis() as redis:
        shard = KEYS.shard(job.id, 0, ShardId((0,)))

        def used_s() -> float:
            metered: str = redis.hget(shard, "metered") or "0 0 0 1"
            return int(metered.split()[1]) / 1e6

        until(lambda: used_s() > 0.3, "a renewal that tells of its time")
        told_s = used_s()
    (worker,) = client.workers()
    os.kill(worker.pid, signal.SIGKILL)
    until(lambda: (found := job.status()).cost is not None and found.cost.seconds.retried > 0, "the charge")
    gate.touch()
    cost = job.wait(timeout=GRACE_S).cost()
    assert told_s <= cost.seconds.retried <= time.monotonic() - submitted
    check_sums(cost)


def test_the_totals_are_the_sums_of_the_jobs_and_outlive_them(client: batchmill.Client) -> None:
    job = client.submit("echo", rows=[{"id": n} for n in range(10)])
    job.wait(timeout=GRACE_S)
    before = client.costs()
    costs = [known.cost() for known in client.jobs()]
    assert before.all.total_s == pytest.approx(sum(cost.total_s for cost in costs), abs=1e-6)
    assert before.all.total == pytest.approx(sum(cost.total for cost in costs), abs=1e-6)
    (acme,) = before.tenants
    assert (acme.tenant, acme.total, acme.rows) == ("acme", before.all.total, before.all.rows)
    for group in (before.operators, before.days):
        assert sum(one.total for one in group) == pytest.approx(before.all.total, abs=1e-6)
    by_operator = {(one.pool, one.operator): one for one in before.operators}
    assert by_operator["default", "echo"].rows == 10
    job.delete()
    assert client.costs() == before
    assert [len(part) for part in (client.costs(1).operators, client.costs(1).days)] == [1, 1]


def test_a_replay_is_charged_to_itself(client: batchmill.Client, tmp_path: Path) -> None:
    cure = tmp_path / "cure"
    retry = batchmill.RetryPolicy(max_attempts=1)
    job = client.submit("reluctant", rows=[{"id": n} for n in range(20)], params={"cure": str(cure)}, retry=retry)
    cost = job.wait(timeout=GRACE_S).cost()
    cure.touch()
    replay = job.replay().wait(timeout=GRACE_S)
    assert replay.cost().rows == 4
    assert replay.status().tenant == "acme"
    assert job.status().rows_dead == 0
    assert job.cost() == cost


@pytest.fixture
def shell(client: batchmill.Client, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a command line that is to succeed, and gives what it writes."""
    monkeypatch.setenv("BATCHMILL_URL", client._async._transport.address.url)
    monkeypatch.setenv("BATCHMILL_TOKEN", TOKEN)

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
        return done.stdout

    return run


def test_the_shell_shows_a_jobs_cost_and_everybodys(
    client: batchmill.Client, shell: Callable[..., str], tmp_path: Path
) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text('{"id": 1}\n')
    parameters = ["--param", f"journal={tmp_path / 'journal'}", "--param", "seconds=0.01"]
    job_id = json.loads(shell("submit", "slow", str(source), *parameters, "--budget", "7.5", "--wait", "--json"))["id"]
    found = client.job(job_id).cost()
    assert JobCost.model_validate_json(shell("cost", job_id, "--json")) == found
    head, *lines = shell("cost", job_id).splitlines()
    assert head.split("\t") == ["PART", "TIME", "SHARE", "COST"]
    spent = [part for part in PARTS if getattr(found.seconds, part)]
    *named, total, rate, budget = lines
    assert [line.split("\t")[0] for line in named] == spent, "parts without time are left out"
    assert total == f"total\t{found.total_s:.3f} s\t100.0%\t{money(found.total, 'EUR')}"
    assert rate.endswith(" EUR per 1,000 rows (1 row so far)")
    assert budget == f"{money(found.total, 'EUR')} of a budget of 7.50 EUR"
    assert f"{money(found.total, 'EUR')} of 7.50 EUR, " in shell("status", job_id)

    totals = client.costs()
    assert CostTotals.model_validate_json(shell("cost", "--json")) == totals
    shown = [line.split("\t") for line in shell("cost").splitlines() if "\t" in line]  # without the titles
    assert [line[0] for line in shown[:3]] == ["TENANT", "acme", "all"]
    assert shown[1][8] == shown[2][8] == money(totals.all.total, "EUR")
    assert {"POOL, OPERATOR", "default, slow", "DAY", totals.days[0].day.isoformat()} <= {line[0] for line in shown}


def test_a_budget_that_is_none_is_refused(client: batchmill.Client) -> None:
    for budget in (0, -1, 1e7, float("nan")):
        with pytest.raises(batchmill.InvalidRequest, match="budget"):
            client.submit("echo", rows=[{"id": 1}], budget=budget)
        with pytest.raises(batchmill.InvalidRequest, match="budget"):
            client.jobs(1)[0].resume(budget=budget)
