"""What users see of workers, trends and plans: nothing of what only the service itself uses, and no empty amounts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from unittest.mock import MagicMock

import pytest

from batchmill.cli.terminal.plan_view import show_plan
from batchmill.fleet import BatchChoice, WorkerInfo
from batchmill.insights.plans import Estimate, Plan, PlanState
from batchmill.jobs.sink import SEARCH_OPERATOR, STORE_OPERATOR
from batchmill.ledger.workers.trends import StoredPoint, TrendName
from batchmill_coordinator.fleet.shown_workers import shown_workers
from batchmill_coordinator.status.trends import read_trends

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_workers_and_trends_show_no_operators_of_the_service() -> None:
    ledger = MagicMock()
    ledger.now_ms.return_value = 1
    names = ["echo", SEARCH_OPERATOR, STORE_OPERATOR]
    worker = WorkerInfo(
        name="cpu@host-1",
        pool="default",
        device="cpu",
        operators=names,
        revisions=dict.fromkeys(names, "1"),
        shards_at_once=1,
        pid=1,
        started_at=1.0,
        batches=[BatchChoice(operator=name, units=1.0, rows=1, reason="first") for name in names],
    )
    ledger.fleet.workers.return_value = [worker]
    (shown,) = shown_workers(ledger, lambda _: True)
    assert (shown.operators, list(shown.revisions), [one.operator for one in shown.batches]) == (["echo"],) * 3
    point = StoredPoint(job="job-1", at=1, units=1.0, useful_us=1, padding_us=0, idle_us=0, facts=json.dumps({}))

    def stored() -> Iterator[tuple[TrendName, list[StoredPoint]]]:
        return ((TrendName(name, "c0ffee", "cpu"), [point]) for name in names)

    ledger.trends.read.side_effect = stored
    assert [one.operator for one in read_trends(ledger)] == ["echo"]
    assert [one.operator for one in read_trends(ledger, SEARCH_OPERATOR)] == [SEARCH_OPERATOR], "if it is asked for"


@pytest.mark.parametrize(("cost", "is_shown"), [((0.0, 0.0, 0.0), False), ((0.5, 0.4, 0.6), True)])
def test_a_plan_shows_its_cost_only_where_there_are_prices(
    capsys: pytest.CaptureFixture[str], cost: tuple[float, float, float], *, is_shown: bool
) -> None:
    value, low, high = cost
    plan = Plan(
        id="plan-1",
        state=PlanState.READY,
        title="echo",
        created_at=1.0,
        cost=Estimate(value=value, low=low, high=high),
    )
    show_plan(plan)
    assert ("cost:" in capsys.readouterr().out) == is_shown
