"""The reports of exceptions and of failed rows."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal

import pytest

from batchmill.jobs.dead_letters import json_value
from batchmill_worker.runtime.failures import MAX_MESSAGE_BYTES, MAX_TRACEBACK_BYTES, Failure


def caught(error: BaseException) -> BaseException:
    try:
        raise error
    except type(error) as raised:
        return raised


def test_texts_are_bounded_in_bytes_and_keep_their_most_useful_end() -> None:
    failure = Failure.of(caught(ValueError("ü" * 50_000)))
    assert len(failure.message.encode()) <= MAX_MESSAGE_BYTES
    assert failure.message.endswith("ü …")
    assert len(failure.traceback.encode()) <= MAX_TRACEBACK_BYTES
    assert failure.traceback.startswith("…")
    assert failure.traceback.endswith("ü\n")


def test_the_cause_of_an_exception_is_reported_too() -> None:
    error = ValueError("outer")
    error.__cause__ = caught(KeyError("inner"))
    trace = Failure.of(caught(error)).traceback
    assert "KeyError: 'inner'" in trace
    assert "direct cause" in trace
    assert trace.endswith("ValueError: outer\n")


def test_a_type_is_named_with_its_module_unless_it_is_built_in() -> None:
    assert Failure.of(caught(KeyError("x"))).error_type == "KeyError"
    assert Failure.of(caught(json.JSONDecodeError("x", "", 0))).error_type == "json.decoder.JSONDecodeError"


def test_an_exception_without_a_readable_message_is_reported_all_the_same() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    assert Failure.of(caught(Mute())).message == "(its message could not be made)"


def test_text_that_is_no_unicode_does_no_harm() -> None:
    failure = Failure.of(caught(ValueError("\ud800")))
    assert failure.message == "\\ud800"
    failure.traceback.encode()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (2**62, 2**62),
        (0.5, 0.5),
        (float("nan"), None),
        (float("-inf"), None),
        ("ü", "ü"),
        (b"\x00\xff", "AP8="),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (datetime.datetime(2024, 2, 29, 1, 2, tzinfo=datetime.UTC), "2024-02-29T01:02:00+00:00"),
        (datetime.time(1, 2), "01:02:00"),
        (Decimal("1.50"), "1.50"),
        ({"a": [b"\x00", (1, float("inf"))]}, {"a": ["AA==", [1, None]]}),
    ],
)
def test_values_of_rows_become_json(value: object, expected: object) -> None:
    assert json_value(value) == expected
    json.dumps(json_value(value), allow_nan=False)
