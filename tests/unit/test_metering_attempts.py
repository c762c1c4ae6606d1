"""What an attempt is counted as, when that is written, and what is kept apart in labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchmill.jobs.completion import Completion
from batchmill.jobs.job import JobError, StageSpec
from batchmill.jobs.retry import Done, Failed, Lost, Partial, Revoked
from batchmill.jobs.status import TokenSums
from batchmill.telemetry.metrics import (
    MAX_STAGE_NAMES,
    OTHER,
    SECONDS,
    BoundedNames,
    Metric,
    MetricKind,
    exposition,
    new_registry,
)
from batchmill_worker.metering.attempts import MAX_ERROR_TYPES, AttemptMetrics, AttemptOutcome, SlotMetrics, outcome_of
from batchmill_worker.runtime.attempt_result import AttemptResult, AttemptStatus
from batchmill_worker.runtime.trace import FileRecorder, Phase, Recorders, begin_trace, read_trace
from support.hand_clock import HandClock

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill.jobs.retry import Outcome

ERROR = JobError(code="operator_failed", message="no")
STAGE = StageSpec(operator="echo", name="last")
OPERATOR = {"operator": "echo", "pool": "p"}
WORK = {**OPERATOR, "stage": "last"}
REQUEUED, FAILED = AttemptResult(AttemptStatus.REQUEUED, "so"), AttemptResult(AttemptStatus.FAILED, "so")


class Counted:
    """The metrics of a slot, what they have written, and their clock."""

    def __init__(self) -> None:
        self.clock = HandClock()
        self.registry = new_registry()
        self.metrics = SlotMetrics(self.registry, "p", "cpu0", self.clock)

    def __call__(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"batchmill_{name}", labels) or 0.0

    def spend(self, phase: Phase, seconds: float, shard: str = "a") -> None:
        with self.metrics.span(phase, shard=shard):
            self.clock.now_s += seconds

    def infer(self, seconds: float, *, rows: int = 4, units: float = 10.0, true_units: float = 8.0) -> None:
        with self.metrics.span(Phase.INFER, shard="a", rows=rows, units=units, true_units=true_units):
            self.clock.now_s += seconds


@pytest.fixture
def counted() -> Counted:
    return Counted()


def test_phases_batches_rows_and_the_attempt_itself_add_up(counted: Counted) -> None:
    tokens = TokenSums(prompt=12, cached=5, generated=7)
    completion = Completion(
        rows=6, rows_dead=2, nbytes=1, dead_by_type=(("KeyError", 2),), rows_cached=3, tokens=tokens
    )
    with counted.metrics.attempt("a") as attempt:
        attempt.about(STAGE)
        counted.spend(Phase.LOAD, 0.25)
        counted.infer(0.125)
        failing = counted.metrics.span(Phase.INFER, shard="a", rows=4, units=4.0, true_units=4.0)
        with pytest.raises(ZeroDivisionError), failing:
            raise ZeroDivisionError
        counted.metrics.rows_failed(attempt, ["KeyError", "KeyError", "OSError"])
        counted.metrics.ended(attempt, Done(completion), AttemptResult.of_commit(completion))

    assert counted("phase_seconds_total", **WORK, phase="load") == 0.25
    assert counted("phase_seconds_total", **WORK, phase="infer") == 0.125
    assert counted("slot_busy_seconds_total", slot="cpu0", pool="p") == 0.125
    assert (counted("batch_rows_count", **OPERATOR), counted("batch_rows_sum", **OPERATOR)) == (2, 8)
    assert counted("batch_duration_seconds_bucket", **OPERATOR, le="0.25") == 2
    assert counted("batch_failures_total", **OPERATOR) == 1
    assert counted("batch_units_total", **OPERATOR, use="useful") == 12
    assert counted("batch_units_total", **OPERATOR, use="padding") == 2
    assert counted("rows_total", **WORK, outcome="done") == 6
    assert counted("rows_total", **WORK, outcome="dead") == 2
    assert counted("rows_cached_total", **WORK) == 3
    assert [counted("tokens_total", **WORK, kind=kind) for kind in ("prompt", "cached", "generated")] == [12, 5, 7]
    assert counted("dead_letters_total", **WORK, error="KeyError") == 2
    assert counted("row_failures_total", **WORK, error="OSError") == 1
    assert counted("attempts_total", **WORK, outcome="done") == 1
    assert counted("attempt_duration_seconds_sum", **WORK) == 0.375


def test_a_short_shard_is_written_at_its_end_and_a_long_one_once_a_second(counted: Counted) -> None:
    with counted.metrics.attempt("a") as attempt:
        attempt.about(STAGE)
        seen = []
        for _ in range(10):
            counted.infer(0.25)
            seen.append(counted("batch_rows_count", **OPERATOR))
    assert seen == [0, 0, 0, 0, 5, 5, 5, 5, 5, 10]
    assert counted("batch_rows_count", **OPERATOR) == 10


@pytest.mark.parametrize(
    ("outcome", "result", "expected", "retry"),
    [
        (Done(Completion(1, 0, 1)), AttemptResult(AttemptStatus.SETTLED, ""), AttemptOutcome.DONE, None),
        (Partial("blob", 2), REQUEUED, AttemptOutcome.ROWS_FAILED, "rows"),
        (Partial("blob", 0), REQUEUED, AttemptOutcome.RELEASED, "released"),
        (Revoked(), REQUEUED, AttemptOutcome.RELEASED, "released"),
        (Failed(ERROR, "OSError"), REQUEUED, AttemptOutcome.FAILED, "operator"),
        (Failed(ERROR, "OSError"), FAILED, AttemptOutcome.GAVE_UP, None),
    ],
)
def test_every_outcome_is_counted_and_those_that_another_attempt_follows_are_retries(
    counted: Counted, outcome: Outcome, result: AttemptResult, expected: AttemptOutcome, retry: str | None
) -> None:
    with counted.metrics.attempt("a") as attempt:
        attempt.about(STAGE)
        counted.metrics.ended(attempt, outcome, result)
    assert {each for each in AttemptOutcome if counted("attempts_total", **WORK, outcome=each)} == {expected}
    reasons = ("rows", "released", "operator")
    assert [why for why in reasons if counted("retries_total", **WORK, reason=why)] == ([retry] if retry else [])


def test_a_lost_attempt_is_not_the_workers_to_count() -> None:
    with pytest.raises(AssertionError, match="recoverer"):
        outcome_of(Lost(), REQUEUED)


def test_a_message_that_comes_twice_is_dropped_once_and_disturbs_no_count(counted: Counted) -> None:
    with counted.metrics.attempt("a") as attempt:
        attempt.about(STAGE)
        with counted.metrics.attempt("a"):
            counted.spend(Phase.CLAIM, 0.5)
        counted.infer(0.5)
        counted.metrics.ended(attempt, Done(Completion(4, 0, 1)), AttemptResult(AttemptStatus.SETTLED, ""))
    assert counted("attempts_total", operator="unknown", stage="unknown", pool="p", outcome="dropped") == 1
    assert counted("phase_seconds_total", **WORK, phase="claim") == 0.5
    assert counted("batch_rows_count", **OPERATOR) == 1


def test_a_mark_of_no_attempt_is_counted_nowhere(counted: Counted) -> None:
    counted.infer(1.0)
    counted.spend(Phase.LOAD, 1.0, shard="")
    assert "infer" not in exposition(counted.registry).decode()


def test_a_trace_records_the_same_phases_beside_the_counting(counted: Counted, tmp_path: Path) -> None:
    begin_trace(tmp_path / "trace")
    trace = FileRecorder(tmp_path / "trace", "cpu0", counted.clock)
    both, shard = Recorders(counted.metrics, trace), "job-1|1|0|2"
    with counted.metrics.attempt(shard) as attempt:
        attempt.about(STAGE)
        with both.span(Phase.LOAD, shard=shard):
            pass
        both.name_stage(shard, "embed")
        with both.span(Phase.STORE, shard=shard):
            counted.clock.now_s += 2
    trace.close()
    load, store = (event for event in read_trace(tmp_path / "trace") if event["ph"] == "X")
    assert load["args"] == {"shard": shard, "job": "job-1", "stage": 1}
    assert (store["name"], store["dur"], store["args"]) == ("store", 2e6, load["args"] | {"stage_name": "embed"})
    assert counted("phase_seconds_total", **WORK, phase="store") == 2


def test_error_types_beyond_a_number_are_counted_together(counted: Counted) -> None:
    attempt = AttemptMetrics(counted.clock)
    attempt.about(STAGE)
    counted.metrics.rows_failed(attempt, (f"Error{n}" for n in range(MAX_ERROR_TYPES + 5)))
    counted.metrics.rows_failed(attempt, ["Error0", "x" * 1000])
    assert counted("row_failures_total", **WORK, error="Error0") == 2
    assert counted("row_failures_total", **WORK, error=OTHER) == 6


def test_stages_of_one_operator_are_counted_apart_and_beyond_a_number_together(counted: Counted) -> None:
    for number in range(MAX_STAGE_NAMES + 3):
        with counted.metrics.attempt("a") as attempt:
            attempt.about(StageSpec(operator="echo", name=f"stage {number}"))
            counted.metrics.ended(attempt, Done(Completion(1, 0, 1)), AttemptResult(AttemptStatus.SETTLED, ""))
    assert counted("rows_total", **OPERATOR, stage="stage 0", outcome="done") == 1
    assert counted("rows_total", **OPERATOR, stage=OTHER, outcome="done") == 3


def test_a_long_name_is_cut() -> None:
    assert BoundedNames(2, max_length=3)("abcdef") == "abc"


def test_many_values_at_once_are_observed_as_one_by_one() -> None:
    values = [0.0, 0.001, 0.0011, 0.3, 61.0, 1e9]
    metric = Metric("batchmill_test_seconds", MetricKind.HISTOGRAM, "A test", (), SECONDS)
    singly, together = new_registry(), new_registry()
    histogram = metric.histogram(singly)
    for value in values:
        histogram.observe(value)
    metric.histogram(together).observe_all(values)
    assert exposition(singly) == exposition(together)
