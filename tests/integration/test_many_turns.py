"""Stages of more turns than a step looks at: the most urgent are seen each time, all others now and then."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchmill.jobs.job import JobForm, StageForm
from batchmill.ledger.views.index import Window
from support.ledger_steps import plan, submit

if TYPE_CHECKING:
    from batchmill.ledger import Ledger

TURNS, LIMIT = 40, 8
WINDOW = {"default": Window(10, frozenset({"echo"}))}


def ready(ledger: Ledger) -> list[str]:
    return [job_id for job_id, _ in ledger.index.due(WINDOW, LIMIT).ready["default"]]


@pytest.fixture
def waiting(ledger: Ledger, epoch: int) -> set[str]:
    """Jobs of as many turns, one of them of the highest priority."""
    jobs = {f"job-{number}" for number in range(TURNS)}
    for number in range(TURNS):
        stage = StageForm(operator="echo", params={"delay_s": number / 1000})
        priority = 100 if number == TURNS - 1 else 0
        submit(ledger, f"job-{number}", spec=JobForm(stages=[stage], priority=priority).spec())
        plan(ledger, epoch, [1], job_id=f"job-{number}")
    return jobs


def test_the_most_urgent_is_seen_each_time_and_every_other_one_now_and_then(ledger: Ledger, waiting: set[str]) -> None:
    seen: set[str] = set()
    for _ in range(1000):
        found = ready(ledger)
        assert (found[0], len(found), len(set(found))) == (f"job-{TURNS - 1}", LIMIT, LIMIT)
        seen |= set(found)
        if seen == waiting:
            return
    raise AssertionError(f"never seen: {sorted(waiting - seen)}")
