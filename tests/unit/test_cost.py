"""The arithmetic of cost: parts add up, whatever the prices, and sums of sums are sums."""

from __future__ import annotations

from dataclasses import astuple, replace
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchmill.jobs.cost import HOUR_US, NANO, Parts, Spent, Totals, job_cost, sums, total_of
from batchmill.jobs.job import DEFAULT_TENANT
from batchmill_coordinator.status.status import status_of, why_paused
from support.records import job_record, spec_of

times_us = st.integers(0, 10**12)
parts = st.builds(Parts, times_us, times_us, times_us, times_us, times_us)
spents = st.builds(Spent.of, parts, st.integers(0, 100 * NANO), st.integers(0, 10**6))


def fields_of(name: str, spent: Spent) -> dict[str, str]:
    """As a hash of sums holds them."""
    named = {
        f"{name} {part}_{unit}": str(amount)
        for unit, amounts in (("us", spent.us), ("nano", spent.nano))
        for part, amount in zip(Parts.__slots__, astuple(amounts), strict=True)
    }
    return named | {f"{name} rows": str(spent.rows), f"{name} attempts": "1"}


def test_an_hour_costs_its_price() -> None:
    assert Parts(useful=HOUR_US).priced(round(0.8 * NANO)) == Parts(useful=800_000_000)
    assert Parts(useful=HOUR_US // 2, idle=HOUR_US // 4).priced(NANO) == Parts(useful=NANO // 2, idle=NANO // 4)
    assert Parts(useful=1).priced(NANO) == Parts()  # a third of a billionth


def test_time_in_vain_keeps_what_was_loaded_and_idle() -> None:
    assert Parts(1, 2, 4, 8, 16).as_wasted() == Parts(0, 0, 7, 8, 16)


@given(st.lists(spents, max_size=5))
def test_sums_keep_every_microsecond_and_billionth(charges: list[Spent]) -> None:
    total = total_of(charges)
    for mine, theirs in ((total.us, [one.us for one in charges]), (total.nano, [one.nano for one in charges])):
        assert astuple(mine) == tuple(map(sum, zip(*map(astuple, [Parts(), *theirs]), strict=True)))
        assert mine.total == sum(part.total for part in theirs)
    assert total.rows == sum(one.rows for one in charges)


@given(st.dictionaries(st.sampled_from(["a", "pool operator", "20000", "0"]), spents))
def test_what_a_hash_of_sums_holds_is_read_again(charges: dict[str, Spent]) -> None:
    fields = {field: value for name, spent in charges.items() for field, value in fields_of(name, spent).items()}
    assert sums(fields) == charges


@given(spents, spents)
def test_a_jobs_cost_is_that_of_its_stages_and_its_parts_add_up(first: Spent, second: Spent) -> None:
    told = job_cost({1: second, 0: first}, 5 * NANO, "EUR")
    assert [stage.stage for stage in told.stages] == [0, 1]
    assert told.total_s == pytest.approx(sum(told.seconds.model_dump().values()))
    assert told.total == pytest.approx(sum(told.money.model_dump().values()))
    assert told.total == pytest.approx(sum(stage.total for stage in told.stages))
    assert (told.currency, told.budget, told.rows) == ("EUR", 5.0, first.rows + second.rows)


def test_what_a_thousand_rows_cost_is_not_known_before_the_first() -> None:
    paid = Spent(Parts(useful=10), Parts(useful=2 * NANO))
    assert job_cost({0: paid}, None, "USD").per_thousand_rows is None
    assert job_cost({0: replace(paid, rows=4)}, None, "USD").per_thousand_rows == 500.0


def test_totals_tell_the_dearest_and_the_latest_first_and_no_more_than_asked_for() -> None:
    cheap, dear = Spent(Parts(useful=9), Parts(useful=1), 1), Spent(Parts(idle=1), Parts(idle=7), 2)
    today = date(2030, 2, 3)
    days = {(today - timedelta(days=ago) - date(1970, 1, 1)).days: one for ago, one in ((0, cheap), (40, dear))}
    totals = Totals.parse(
        fields_of("acme", cheap) | fields_of(DEFAULT_TENANT, dear),
        fields_of("gpu embed", cheap) | fields_of("other", dear),
        {field: value for day, one in days.items() for field, value in fields_of(str(day), one).items()},
    )
    told = totals.report("USD", limit=9)
    assert [one.tenant for one in told.tenants] == [DEFAULT_TENANT, "acme"]
    assert [(one.pool, one.operator) for one in told.operators] == [("other", "other"), ("gpu", "embed")]
    assert [one.day for one in told.days] == [today, today - timedelta(days=40)]
    assert (told.all.total, told.all.rows) == (8 / NANO, 3)
    short = totals.report("USD", limit=1)
    assert [len(group) for group in (short.tenants, short.operators, short.days)] == [1, 1, 1]
    assert short.all == told.all


def test_a_job_that_cost_its_budget_says_what_to_do_about_it_only_while_it_is_paused() -> None:
    fields = {
        "state": "paused",
        "created_at": "1000000",
        "cost useful_nano": "510000000",
        "cost_nano": "510000000",
        "budget_nano": "500000000",
    }

    def note(**changes: str) -> str | None:
        record = job_record(spec=spec_of("echo", budget=0.5), **(fields | changes))
        cost = job_cost({0: record.first.cost}, record.budget_nano, "EUR")
        assert status_of(record, 2000.0, currency="EUR").cost == cost
        return why_paused(record, "EUR")

    told = "it has cost 0.51 of its budget of 0.5 EUR; `batchmill resume job-1 --budget N` gives it more"
    assert note() == told
    assert note(state="running") is None
    assert note(budget_nano="600000000") is None
