"""The histories of operators in the ledger: a point a job, bounded, whichever worker adds to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.ledger.workers import trends
from batchmill.ledger.workers.trends import TrendName

if TYPE_CHECKING:
    import pytest
    import redis

    from batchmill.ledger import Ledger

NAME = TrendName("embed", "c0ffee", "NVIDIA L4")


def add(ledger: Ledger, job: str, name: TrendName = NAME, units: float = 10.5) -> None:
    ledger.trends.add(name, job, units=units, useful_us=100, padding_us=20, idle_us=3, facts={"host": job})


def test_what_several_workers_add_to_a_job_is_one_point(ledger: Ledger) -> None:
    for job in ("job-1", "job-2", "job-1"):
        add(ledger, job)
    ((name, points),) = ledger.trends.read()
    assert name == NAME
    assert [(one.job, one.units, one.useful_us, one.padding_us, one.idle_us) for one in points] == [
        ("job-1", 21.0, 200, 40, 6),
        ("job-2", 10.5, 100, 20, 3),
    ]
    assert points[0].facts == '{"host": "job-1"}'
    assert points[0].at <= points[1].at


def test_histories_are_bounded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trends, "MAX_POINTS", 3)
    monkeypatch.setattr(trends, "MAX_TRENDS", 2)
    for number in range(5):
        add(ledger, f"job-{number}")
    ((_, points),) = ledger.trends.read()
    assert [one.job for one in points] == ["job-2", "job-3", "job-4"]
    for operator in ("chunk", "parse"):
        add(ledger, "job-9", TrendName(operator, "c0ffee", "cpu"))
    assert len(list(ledger.trends.read())) == 2  # which one went is open where all were written in one millisecond


def test_a_history_of_another_version_is_left_out(ledger: Ledger, redis_client: redis.Redis, prefix: str) -> None:
    add(ledger, "job-1")
    redis_client.hset(f"{prefix}trends", "other\nc0ffee\ncpu", '[{"strange": 1}]')
    assert [name for name, _ in ledger.trends.read()] == [NAME]
