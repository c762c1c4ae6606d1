"""Weights and limits of tenants, without a service."""

from __future__ import annotations

from dataclasses import replace

import pytest

from batchmill.errors import InvalidSettings
from batchmill.settings import CoordinatorSettings
from batchmill_coordinator.scheduling.fairness import Candidate, TenantLoad, next_job
from batchmill_coordinator.scheduling.tenant_shares import TenantShares, VirtualTimes


def job(tenant: str, shard_s: float = 1.0) -> Candidate:
    return Candidate(tenant, 0, 0, 0.0, 0.0, 0, tenant=tenant, shard_s=shard_s)


def seconds_served(times: VirtualTimes, jobs: list[Candidate], turns: int) -> dict[str, float]:
    """What each tenant gets in a pool that takes one shard at a time: none is in flight when the next is chosen."""
    served: dict[str, float] = {}
    last: dict[str, float] = {}
    for turn in range(turns):
        load = {one.tenant: TenantLoad(0, last.get(one.tenant), times.start_of(one.tenant)) for one in jobs}
        chosen = next_job(jobs, turn * 1e-3, load)
        times.take(chosen.tenant, chosen.shard_s)
        last[chosen.tenant] = turn * 1e-3
        served[chosen.tenant] = served.get(chosen.tenant, 0.0) + chosen.shard_s
    return served


def test_tenants_share_a_pool_of_one_slot_by_their_weights() -> None:
    served = seconds_served(VirtualTimes(TenantShares({"a": 3.0})), [job("a"), job("b")], 400)
    assert served == {"a": 300, "b": 100}


def test_shares_are_of_time_not_of_shards() -> None:
    served = seconds_served(VirtualTimes(TenantShares({"a": 1.0})), [job("a", 5.0), job("b", 1.0)], 600)
    assert served["a"] == pytest.approx(served["b"], rel=0.02)


def test_a_tenant_that_was_away_has_saved_nothing_up() -> None:
    times = VirtualTimes(TenantShares({"a": 1.0, "b": 1.0}))
    seconds_served(times, [job("a")], 1000)
    served = seconds_served(times, [job("a"), job("b")], 10)
    assert served == {"a": 5, "b": 5}


def test_a_higher_class_goes_first_whatever_the_weights() -> None:
    times = VirtualTimes(TenantShares({"a": 100.0}))
    served = seconds_served(times, [job("a"), replace(job("b"), priority=1)], 10)
    assert served == {"b": 10}


def test_a_limit_counts_what_is_in_flight() -> None:
    shares = TenantShares(most={"a": 2})
    assert [shares.has_place("a", count) for count in (0, 1, 2, 3)] == [True, True, False, False]
    assert shares.has_place("b", 10_000)


def test_shares_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHMILL_TENANT_WEIGHTS", "search=3, ads=0.5")
    monkeypatch.setenv("BATCHMILL_TENANT_MAX_SHARDS", "ads=8")
    settings = CoordinatorSettings.load()
    assert settings.tenant_weights == {"search": 3.0, "ads": 0.5}
    assert settings.tenant_max_shards == {"ads": 8}


@pytest.mark.parametrize("text", ["search", "search=0", "search=-1", "search=x", "=3", "search=nan"])
def test_a_wrong_share_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("BATCHMILL_TENANT_WEIGHTS", text)
    with pytest.raises(InvalidSettings, match="BATCHMILL_TENANT_WEIGHTS") as caught:
        CoordinatorSettings.load()
    assert "Value error" not in str(caught.value)  # a word of the library that checks
