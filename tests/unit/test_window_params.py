"""The parameters of a stage with windows: refused where they are given, in the units in which they were given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from batchmill.client.submitting.job_file import read_job_file
from batchmill.client.submitting.stage import Stage
from batchmill.client.submitting.window import Window
from batchmill.errors import InvalidParams
from batchmill.jobs.stateful.step import StateStep
from batchmill.jobs.stateful.window_params import AGGREGATES, check_window
from batchmill_worker.engine.state_executor import StatefulRows
from batchmill_worker.operators.window import Window as WindowOperator
from batchmill_worker.windows.aggregates import KINDS

if TYPE_CHECKING:
    from pathlib import Path

FAULTY: list[tuple[dict[str, Any], str, str]] = [
    ({"tumbling": None}, "", "expected one of tumbling, sliding, session and count, got none"),
    ({"count": 2}, "", "expected one of tumbling, sliding, session and count, got tumbling, count"),
    ({"time": None}, "time", "expected time, the column with the time of a row"),
    ({"tumbling": "0s"}, "tumbling", "tumbling: expected a time span of 1ms to 366d, got 0s"),
    ({"tumbling": 0.0001}, "tumbling", "tumbling: expected a time span of 1ms to 366d, got 0.0001 s"),
    ({"tumbling": "400d"}, "tumbling", "tumbling: expected a time span of 1ms to 366d, got 400d"),
    ({"tumbling": "soon"}, "tumbling", "tumbling: expected seconds or a time span such as 90s"),
    ({"wait": "-1s"}, "wait", "wait: expected seconds or a time span"),
    ({"wait": -1}, "wait", "wait: expected a time span of 0s to 366d, got -1 s"),
    ({"late": "367d"}, "late", "late: expected a time span of 0s to 366d, got 367d"),
    ({"tumbling": 10**400}, "tumbling", "tumbling: expected a time span of 1ms to 366d, got inf s"),
    ({"idle": 0}, "idle", "idle: expected a time span of 1ms to 366d, got 0 s"),
    ({"tumbling": None, "sliding": ["1m", "1h"]}, "sliding", "which is not longer; got 1m and 1h"),
    ({"tumbling": None, "sliding": ["1d", "1s"]}, "sliding", "at most 1,000 windows, got windows of 1d and 1s"),
    ({"aggregate": {"n": f"top:u:{'1' * 5000}"}}, "aggregate", "expected top:COLUMN:N, N up to 1000, got 'top:u:111"),
    ({"aggregate": {"n": "top:u:²"}}, "aggregate", "expected top:COLUMN:N"),
    ({"aggregate": {"n": "top:u:0"}}, "aggregate", "expected top:COLUMN:N"),
    ({"aggregate": {"n": "sum"}}, "aggregate", "KIND:COLUMN"),
    ({"aggregate": {"n": "total:u"}}, "aggregate", "KIND:COLUMN"),
    (
        {"aggregate": {"__batchmill_x": "count"}},
        "aggregate",
        "names that begin with '__batchmill_' are Batchmill's own",
    ),
    ({"aggregate": {"source_row": "count"}}, "aggregate", "has the name of another column of the results"),
    ({"aggregate": {"user": "count"}, "by": "user"}, "aggregate", "has the name of another column of the results"),
    ({"by": "window_id"}, "by", "by: the column 'window_id' has the name of another column of the results"),
    ({"by": ["user", "user"]}, "by", "by: the column 'user' has the name of another column of the results"),
    ({"by": "user", "groups": 0}, "groups", "groups: expected 1 to 64, got 0"),
    ({"by": "user", "groups": 65}, "groups", "groups: expected 1 to 64, got 65"),
    ({"groups": 2}, "groups", "groups: expected columns in by, whose values are divided into groups"),
]


@pytest.mark.parametrize(("changes", "parameter", "message"), FAULTY)
def test_windows_that_cannot_be_are_refused_by_client_service_and_worker(
    changes: dict[str, Any], parameter: str, message: str
) -> None:
    given = {"time": "at", "tumbling": 60, **changes}
    params = {name: value for name, value in given.items() if value is not None}
    with pytest.raises(InvalidParams) as by_client:
        Window(**given)
    with pytest.raises(InvalidParams):
        Stage("window", params=params)
    with pytest.raises(InvalidParams):
        check_window(params)
    with pytest.raises(InvalidParams):
        WindowOperator(**params)
    assert message in by_client.value.message
    assert len(by_client.value.message) < 400
    assert by_client.value.details["parameter"] == parameter


def test_a_job_file_with_windows_that_cannot_be_is_named(tmp_path: Path) -> None:
    path = tmp_path / "windows.toml"
    path.write_text(
        'source = "in.jsonl"\n[[stages]]\noperator = "echo"\n[[stages]]\noperator = "window"\n'
        'params = { time = "at", sliding = ["1m", "1h"] }\n'
    )
    with pytest.raises(InvalidParams, match=r"windows.toml: operator 'window': sliding: .* got 1m and 1h"):
        read_job_file(path)


@pytest.mark.parametrize(
    "params",
    [
        {"time": "at", "tumbling": "1m", "wait": "0s", "late": "1h", "idle": "1ms"},
        {"time": "at", "sliding": ["1000s", "1s"], "by": ["user"], "aggregate": {"most": "top:price:01000"}},
        {"time": "at", "session": "366d"},
        {"count": 3},
    ],
)
def test_windows_that_can_be_are_taken(params: dict[str, Any]) -> None:
    check_window(params)


@pytest.mark.parametrize(
    "params",
    [
        {"count": "x"},
        {"count": 1, "by": 3},
        {"count": 1, "by": True, "aggregate": {"n": "count"}},
        {"count": 1, "aggregate": {"n": 1}},
    ],
)
def test_what_has_another_type_is_left_to_the_schema(params: dict[str, Any]) -> None:
    check_window(params)


def test_each_aggregate_that_users_may_name_is_there() -> None:
    assert set(KINDS) == set(AGGREGATES)


def test_a_column_of_times_that_is_missing_is_told_apart_from_one_with_bad_times() -> None:
    window = WindowOperator(time="at", tumbling=60)
    messages = []
    for rows in ({"at": ["never"]}, {"att": ["2026-01-01"]}):
        found = window.infer(StatefulRows(pa.table(rows), StateStep("", is_last=True), "", "0-a1", bytes))
        messages.append(found.errors[0][1])
    assert messages == [
        "column 'at': expected a time in the years 2 to 9998",
        "the rows have no column 'at', which is to have their time. Did you mean 'att'?",
    ]
