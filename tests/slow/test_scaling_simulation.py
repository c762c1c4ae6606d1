"""Scaling policies on traces of arriving work: Batchmill's own functions keep the figures of docs/benchmarks.md."""

from __future__ import annotations

from functools import cache

import pytest
from benchmarks.scaling.__main__ import TRACES, Trace, cases, simulate

FIGURES = {
    "batch": {
        "in flight / 1": (108.1, 0.024),
        "planned shards / 2": (70.0, 0.024),
        "drain time, Kubernetes": (47.6, 0.024),
        "drain time, own hold": (43.3, 0.024),
        "Batchmill, autoscale": (43.9, 0.024),
    },
}
HOURS_TOLERANCE = 0.05  # a share
LATE_TOLERANCE = 0.025


@cache
def trace_of(name: str) -> Trace:
    """The trace, made once."""
    return TRACES[name]()


@pytest.mark.parametrize(("trace", "policy"), [(trace, policy) for trace in FIGURES for policy in FIGURES[trace]])
def test_a_policy_costs_the_worker_hours_and_the_late_jobs_that_are_documented(trace: str, policy: str) -> None:
    hours, late = FIGURES[trace][policy]
    jobs = trace_of(trace)
    found = simulate(jobs, cases(jobs.tuned)[policy])
    assert found.worker_h == pytest.approx(hours, rel=HOURS_TOLERANCE)
    assert found.late == pytest.approx(late, abs=LATE_TOLERANCE)
    assert found.useful_h == pytest.approx(sum(sum(job.tasks) for job in jobs.jobs) / 3600)
