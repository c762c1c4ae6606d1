"""The operator `window`, shard by shard: values whose type changes, sums that grow, times that are too far."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from batchmill.columns import join_what_fits
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

    def run(self, *parts: dict[str, Any], is_last: bool = False) -> StatefulResults:
        before, name = self.before, f"{next(self.numbers)}-a1"
        rows, unfit = join_what_fits([pa.table(part) for part in parts])
        found: StatefulResults = Window(**self.params).infer(  # without a state in memory
            StatefulRows(rows, StateStep(before, is_last=is_last), before, name, lambda: self.states[before], unfit)
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


def test_parts_of_several_types_are_in_windows_as_if_each_were_a_shard() -> None:
    parts: list[dict[str, Any]] = [{"k": [1]}, {"k": ["x", None]}, {"k": [2, 1]}, {"k": ["y", "z"], "v": [7, 8]}]
    parts += [{"k": [2.5]}, {"k": [2**53 + 1, 1]}, {"k": [[1]]}, {"k": [2]}]
    apart, together = steps(by="k"), steps(by="k")
    errors: dict[int, str] = {}
    place = 0
    for part in parts:
        found = apart.run(part)
        errors |= {place + at: kind for at, (kind, _) in found.errors.items()}
        place += len(part["k"])
    found = together.run(*parts)
    assert {at: kind for at, (kind, _) in found.errors.items()} == errors
    assert sorted(errors) == [1, 5, 6, 10]
    made = [run.run({"k": [1]}, is_last=True).results.sort_by("k").to_pylist() for run in (apart, together)]
    assert made[0] == made[1]
    assert [(row["k"], row["n"]) for row in made[0]] == [(1, 4), (2, 2), (2.5, 1), (float(2**53), 1), (None, 1)]


def test_the_type_of_the_shards_before_counts_not_that_of_the_first_part() -> None:
    run = steps(by="k")
    run.run({"k": [1]})
    found = run.run({"k": ["x"]}, {"k": [1, 2]}, {"k": ["y"]})
    message = "column 'k': expected int64, as in the rows before, got string"
    assert found.errors == {0: ("bad_value", message), 3: ("bad_value", message)}


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


def test_sums_beside_one_that_no_integer_can_hold_are_floating_point_numbers_too() -> None:
    run = steps(by="k", aggregate={"total": "sum:v"})
    found = run.run({"k": [1, 2, 2], "v": [2**62 + 1, 2**62, 2**62]}, is_last=True)
    assert found.results["total"].to_pylist() == [float(2**62), float(2**63)]


@pytest.mark.parametrize(
    ("aggregate", "expected"), [("max:v", 2.0**53), ("top:v:2", [2.0**53, 1.5]), ("collect:v", [2.0**53, 1.5])]
)
def test_large_integers_of_a_column_that_gets_fractions_are_rounded(aggregate: str, expected: object) -> None:
    run = steps(by="k", aggregate={"made": aggregate})
    run.run({"k": [2**53 + 1], "v": [2**53 + 1]})
    run.run({"k": [2**53 + 1], "v": [1.5]})
    found = run.run({"k": [0.5], "v": [0.5]}, is_last=True)
    assert found.results.to_pylist()[0]["made"] == expected
    assert found.results["k"].to_pylist() == [2.0**53, 0.5]


@pytest.mark.parametrize(
    ("first", "then", "expected"),
    [
        (pa.array([-1]), pa.array([2**64 - 1, 5], pa.uint64()), "column 'v': expected a value of int64"),
        (pa.array([2**64 - 1], pa.uint64()), pa.array([-1, 5]), "column 'v': expected a value of uint64"),
    ],
)
def test_integers_beyond_those_of_the_rows_before_are_at_fault_alone(
    first: pa.Array, then: pa.Array, expected: str
) -> None:
    run = steps(aggregate={"all": "collect:v"})
    run.run({"v": first})
    found = run.run({"v": then}, is_last=True)
    assert list(found.errors) == [0]
    assert found.errors[0][1].startswith(expected)
    assert found.results["all"].to_pylist() == [[first[0].as_py(), 5]]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.timestamp("ns"), [1001, 2**62 // 1000 * 1000, 2000]),
        (pa.timestamp("s"), [2**62, 5, 2000]),
        (pa.duration("s"), [2**62, 5, 2000]),
        (pa.date32(), [2**30, 5, 2000]),
    ],
)
def test_times_that_windows_cannot_keep_are_at_fault_alone(kind: pa.DataType, values: list[int]) -> None:
    run = steps(aggregate={"all": "collect:v", "nested": "collect:s"})
    number = pa.int32() if kind == pa.date32() else pa.int64()
    times = pa.array(values, number).cast(kind)
    found = run.run({"v": times, "s": pa.StructArray.from_arrays([times], ["at"])})
    assert list(found.errors) == [0]
    assert found.errors[0][1].endswith(f"got {kind}")
    (made,) = run.run({"v": times[2:], "s": pa.nulls(1)}, is_last=True).results["all"].combine_chunks()
    assert pa.array(made.values.cast(number)).to_pylist() == [*values[1:], values[2]]


@pytest.mark.parametrize("units", ["ns s", "s ns"])
def test_times_of_two_units_are_together_in_one_that_holds_both(units: str) -> None:
    run = steps(aggregate={"all": "collect:v"})
    far = {"s": pa.array([253_402_300_799], pa.timestamp("s")), "ns": pa.array([1_000], pa.timestamp("ns"))}
    first, then = units.split()
    run.run({"v": far[first]})
    made = run.run({"v": far[then]}, is_last=True).results["all"]
    assert made.type == pa.list_(pa.timestamp("us"))
    assert [at.year for at in made.to_pylist()[0]] == ([1970, 9999] if first == "ns" else [9999, 1970])


def test_maps_are_collected_as_they_are() -> None:
    kind = pa.map_(pa.string(), pa.list_(pa.float64()))
    values = [[("__batchmill_type__", [1.5]), ("value", None)], None]
    run = steps(aggregate={"all": "collect:v"})
    run.run({"v": pa.array(values, kind)})
    made = run.run({"v": pa.array(values, kind)}, is_last=True).results["all"]
    assert made.to_pylist() == [values * 2]


def test_partitions_with_the_names_of_a_mark_are_partitions() -> None:
    run = steps(count=None, time="at", tumbling=60, partition="p")
    run.run({"at": [1, 2], "p": ["__batchmill_type__", "value"]})
    assert run.run({"at": [3], "p": ["value"]}, is_last=True).results["n"].to_pylist() == [3]


def test_a_process_keeps_one_state_of_a_stage() -> None:
    window, loaded = Window(count=10), list[str]()
    states = {"": b""}

    def run(operator: Window, before: str, name: str) -> None:
        def load() -> bytes:
            loaded.append(before)
            return states[before]

        given = StatefulRows(pa.table({"v": [1]}), StateStep(before), before, name, load)
        states[name] = operator.infer(given).state

    run(window, "", "jobs/1/state/1/0-a1")
    run(window, "jobs/1/state/1/0-a1", "jobs/1/state/1/1-a1")
    assert loaded == []
    run(Window(count=10), "jobs/1/state/1/1-a1", "jobs/1/state/1/2-a1")  # in another process
    run(window, "jobs/1/state/1/2-a1", "jobs/1/state/1/3-a1")
    assert loaded == ["jobs/1/state/1/1-a1", "jobs/1/state/1/2-a1"]
    assert len(window._states) == 1  # what a process keeps is not seen from outside
