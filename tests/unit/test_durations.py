"""Time spans as text: one parser for requests, job files, settings and the command line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ValidationError

from batchmill import BatchPolicy, RetryPolicy
from batchmill.durations import Span, moment_or_span, seconds_in
from batchmill.settings import CoordinatorSettings


class Wait(BaseModel):
    wait_s: Annotated[float, Span(gt=0, le=60)]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("1h30m", 5400), ("1h 30min", 5400), ("2 d", 172_800), ("0.5h", 1800), ("500ms", 0.5), (" 2m ", 120)],
)
def test_a_span_is_numbers_with_units(text: str, seconds: float) -> None:
    assert seconds_in(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "90", "h", "1x", "-1h", "1h-", "1e3s", "1,5h", "2030-01-31"])
def test_any_other_text_is_no_span(text: str) -> None:
    assert seconds_in(text) is None


def test_a_deadline_as_text_is_a_span_or_a_date() -> None:
    assert moment_or_span("2h") == timedelta(hours=2)
    assert moment_or_span("2030-01-31T17:00+00:00") == datetime(2030, 1, 31, 17, tzinfo=UTC)
    assert moment_or_span("2030-01-31T17:00") == datetime(2030, 1, 31, 17).astimezone()
    assert moment_or_span("soon") is None
    assert moment_or_span("999999999d 999999999d") is None


@pytest.mark.parametrize(("given", "seconds"), [("1m", 60), ("20", 20), (0.5, 0.5), ("250 ms", 0.25)])
def test_a_field_of_seconds_takes_text_and_numbers(given: Any, seconds: float) -> None:
    assert Wait(wait_s=given).wait_s == seconds


@pytest.mark.parametrize(("given", "words"), [("2m", "less than or equal to 60"), ("0s", "than 0"), ("x", "90s, 30m")])
def test_the_bounds_of_a_field_hold_for_text_and_other_text_is_refused(given: Any, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Wait(wait_s=given)


def test_the_schema_of_a_field_lists_both_with_bounds() -> None:
    number, text = Wait.model_json_schema()["properties"]["wait_s"]["anyOf"]
    assert number == {"exclusiveMinimum": 0, "maximum": 60, "type": "number"}
    assert text["type"] == "string"
    assert Wait.model_json_schema(mode="serialization")["properties"]["wait_s"]["type"] == "number"


def test_policies_and_settings_take_text(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = RetryPolicy.model_validate({"backoff_s": "500ms", "backoff_max_s": "2m"})
    assert (policy.backoff_s, policy.backoff_max_s) == (0.5, 120.0)
    assert BatchPolicy.model_validate({"target_latency_s": "2s"}).target_latency_s == 2.0
    monkeypatch.setenv("BATCHMILL_RETENTION_S", "14d")
    assert CoordinatorSettings.load(tokens=("t",)).retention_s == 14 * 86_400
