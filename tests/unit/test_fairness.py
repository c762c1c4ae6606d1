from __future__ import annotations

from dataclasses import replace
from typing import Any

from batchmill_coordinator.scheduling.fairness import AGEING_S, Candidate, next_job


def candidate(job_id: str, **changes: Any) -> Candidate:
    return replace(Candidate(job_id, 0, priority=0, created_at_s=0.0, waiting_since_s=0.0, in_flight=0), **changes)


def dispatch(candidates: list[Candidate], turns: int, now_s: float = 1.0) -> list[str]:
    chosen = []
    for _ in range(turns):
        winner = next_job(candidates, now_s)
        chosen.append(winner.job_id)
        candidates = [
            replace(c, waiting_since_s=now_s, in_flight=c.in_flight + 1) if c is winner else c for c in candidates
        ]
    return chosen


def test_jobs_of_one_class_take_turns() -> None:
    assert dispatch([candidate("a"), candidate("b"), candidate("c")], 6) == ["a", "b", "c", "a", "b", "c"]


def test_a_new_job_catches_up_with_one_that_has_much_in_flight() -> None:
    assert dispatch([candidate("old", in_flight=3), candidate("new", created_at_s=0.5)], 3) == ["new"] * 3


def test_a_higher_priority_goes_first() -> None:
    assert dispatch([candidate("a"), candidate("urgent", priority=1)], 3) == ["urgent"] * 3


def test_a_job_that_waits_long_rises_above_a_higher_class() -> None:
    waiting = candidate("patient", waiting_since_s=0.0)
    urgent = candidate("urgent", priority=2, waiting_since_s=3 * AGEING_S)
    assert next_job([waiting, urgent], 3 * AGEING_S).job_id == "patient"


def test_the_oldest_goes_first_among_equals() -> None:
    assert next_job([candidate("b", created_at_s=1.0), candidate("a", created_at_s=2.0)], 3.0).job_id == "b"


def test_inside_a_class_the_earliest_deadline_goes_first_whatever_is_in_flight() -> None:
    late = candidate("late", deadline_at_s=900.0)
    early = candidate("early", deadline_at_s=500.0, in_flight=7)
    without = candidate("without", created_at_s=-1.0)
    assert dispatch([without, late, early], 3) == ["early"] * 3
    assert dispatch([without, late], 3) == ["late"] * 3


def test_a_deadline_does_not_lift_a_job_out_of_its_class() -> None:
    hurried = candidate("hurried", deadline_at_s=2.0)
    assert dispatch([hurried, candidate("urgent", priority=1)], 2) == ["urgent"] * 2


def test_jobs_of_one_deadline_take_turns() -> None:
    pair = [candidate("a", deadline_at_s=500.0), candidate("b", deadline_at_s=500.0)]
    assert dispatch(pair, 4) == ["a", "b", "a", "b"]


def test_a_job_without_a_deadline_is_not_starved_by_those_that_have_one() -> None:
    patient = candidate("patient", waiting_since_s=0.0)
    hurried = candidate("hurried", deadline_at_s=500.0, waiting_since_s=AGEING_S)
    assert next_job([patient, hurried], AGEING_S).job_id == "patient"
