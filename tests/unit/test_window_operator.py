"""The operator `window`, shard by shard: values whose type changes, sums that grow, times that are too far."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from batchmill.jobs.stateful.step import StateStep
from batchmill_worker.engine.state_executor import StatefulRows
from batchmill_worker.operators.window import Window

if TYPE_CHECKING:
    from batchmill_worker.engine.state_executor import StatefulResults


class Steps:
    """Runs shards one after the other, each with the state as it was stored."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.states = {"": b""}
        self.numbers = count(1)
        self.before = ""

    def run(self, rows: dict[str, Any], *, is_last: bool = False) -> StatefulResults:
        before, name = self.before, f"{next(self.numbers)}-a1"
        found: StatefulResults = Window(**self.params).infer(  # without a state in memory
            StatefulRows(pa.table(rows), StateStep(before, is_last=is_last), before, name, lambda: self.states[before])
        )
        self.states[name] = found.state
        self.before = name
        return found


def steps(**params: Any) -> Steps:
    return Steps({"count": 10, "aggregate": {"n": "count"}} | params)


def test_a_value_whose_type_does_not_fit_the_rows_before_is_at_fault_alone() -> None:
    run = steps(by="k", aggregate={"most": "max:v"})
    assert run.run({"k": [1, 2], "v": [1, 2]}).errors == {}
    found = run.run({"k": ["1", None], "v": [1.5, 2]})
    assert found.errors == {0: ("bad_value", "column 'k': expected int64, as in the rows before, got string")}
    last = run.run({"k": [1], "v": [4]}, is_last=True)
    made = last.results.sort_by("k").to_pydict()
    assert (made["k"], made["most"]) == ([1, 2, None], [4, 2, 2])


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64()])
def test_a_sum_that_no_integer_can_hold_is_a_floating_point_number(kind: pa.DataType) -> None:
    run = steps(aggregate={"total": "sum:v", "mean": "mean:v"})
    most = 2**63 - 1
    run.run({"v": pa.array([most, most], kind)})
    (made,) = run.run({"v": pa.array([most], kind)}, is_last=True).results.to_pylist()
    assert (made["total"], made["mean"]) == (pytest.approx(3 * most), pytest.approx(most))


def test_sums_of_integers_are_integers_beside_windows_without_values() -> None:
    run = steps(by="k", aggregate={"total": "sum:v"})
    found = run.run({"k": [1, 2], "v": pa.array([2**62 + 1, None])}, is_last=True)
    assert found.results["total"].to_pylist() == [2**62 + 1, None]


@pytest.mark.parametrize("unit", ["s", "ms", "us"])
def test_times_beyond_the_years_are_at_fault(unit: str) -> None:
    run = steps(count=None, time="at", tumbling=60)
    times = [2**62, 60, None, -(2**62)]
    found = run.run({"at": pa.array(times, pa.timestamp(unit))}, is_last=True)
    assert sorted(found.errors) == [0, 2, 3]
    assert {message for _, message in found.errors.values()} == {"column 'at': expected a time in the years 2 to 9998"}
    assert found.results["n"].to_pylist() == [1]
    assert found.results["window_start"].to_pylist()[0].year == 1970


def test_dates_are_times() -> None:
    run = steps(count=None, time="at", tumbling=86_400)
    found = run.run({"at": pa.array([0, 1, 1], pa.date32())}, is_last=True)
    assert found.results["n"].to_pylist() == [1, 2]


def test_structs_with_the_fields_of_a_mark_are_collected_as_they_are() -> None:
    run = steps(aggregate={"all": "collect:v"})
    values = [{"__batchmill_type__": "bytes", "value": "eA=="}, {"__batchmill_type__": "?", "value": ""}]
    run.run({"v": values})
    assert run.run({"v": [values[0]]}, is_last=True).results["all"].to_pylist() == [[*values, values[0]]]
