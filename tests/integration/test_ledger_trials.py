"""The journal of trials in the ledger: bounded, and a trial that runs on is written in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.insights.trials import Trial, TrialState
from batchmill.ledger.workers import trials

if TYPE_CHECKING:
    import pytest
    import redis

    from batchmill.ledger import Ledger

NAME = "embed:1:c0ffee:NVIDIA L4"
BEGUN = Trial(
    id="trial-1", operator="embed", params="c0ffee", device_type="NVIDIA L4", setting="batch_scale", usual=1,
    candidate=2, started_at=1000, updated_at=1000,
)  # fmt: skip
WON = BEGUN.model_copy(
    update={
        "state": TrialState.WON,
        "pairs": 13,
        "mean_log": -0.10536,
        "squares": 1.25e-7,
        "ratio": 0.9,
        "low": 0.85,
        "high": 0.95,
        "updated_at": 1100.5,
        "expires_at": 605900.5,
    }
)


def test_a_trial_is_kept_as_it_is_now(ledger: Ledger) -> None:
    assert ledger.trials.of(NAME) == []
    ledger.trials.keep(NAME, BEGUN)
    assert ledger.trials.of(NAME) == [BEGUN]
    ledger.trials.keep(NAME, WON)
    assert ledger.trials.of(NAME) == ledger.trials.read() == [WON]


def test_the_latest_of_all_operators_come_first(ledger: Ledger) -> None:
    ledger.trials.keep(NAME, WON)
    other = BEGUN.model_copy(update={"id": "trial-2", "updated_at": 2000.0})
    ledger.trials.keep("chunk:1:c0ffee:cpux2", other)
    assert ledger.trials.read() == [other, WON]


def test_the_journal_is_bounded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "MAX_TRIALS", 3)
    monkeypatch.setattr(trials, "MAX_NAMES", 2)
    for number in range(5):
        ledger.trials.keep(NAME, BEGUN.model_copy(update={"id": f"trial-{number}"}))
    assert [one.id for one in ledger.trials.of(NAME)] == ["trial-2", "trial-3", "trial-4"]
    for operator in ("chunk", "parse"):
        ledger.trials.keep(operator, BEGUN)
    assert len(ledger.trials.read()) in (2, 4)  # which name went is open where all were written in one millisecond


def test_a_journal_of_another_version_is_left_out(ledger: Ledger, redis_client: redis.Redis, prefix: str) -> None:
    ledger.trials.keep(NAME, WON)
    redis_client.hset(f"{prefix}trials", "other", '[{"strange": 1}]')
    assert ledger.trials.of("other") == []
    assert ledger.trials.read() == [WON]
