"""Groups of keys: what windows make does not depend on how many there are."""

from __future__ import annotations

import math
import random
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from batchmill.jobs.stateful.step import StateStep
from batchmill_worker.engine.state_executor import StatefulRows
from batchmill_worker.operators.window import Window
from batchmill_worker.windows.groups import rows_of_group
from chaos.window_oracle import Event, Fired, Rule, windows_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill_worker.engine.state_executor import StatefulResults

Made = tuple[Counter[str], Counter[str]]


def run(params: dict[str, Any], shards: Sequence[pa.Table], *, in_memory: bool = False) -> list[StatefulResults]:
    """Run rounds, of as many shards as there are groups, until the end; their states are stored or kept."""
    groups, states, found = params.get("groups", 1), dict[str, bytes](), []
    operators = [Window(**params) for _ in range(groups)]
    for number, rows in enumerate(shards):
        for group in range(groups):
            before = f"stage/{number - 1}-{group}" if number else ""
            step = StateStep(
                before, 0, 1000 + number * 700, number == len(shards) - 1, 300 + number * 700, group, groups
            )
            operator = operators[group] if in_memory else Window(**params)
            name = f"stage/{number}-{group}"
            results = operator.infer(StatefulRows(rows, step, before, name, partial(states.__getitem__, before)))
            assert len(results.counts) == rows.num_rows + 1
            assert sum(results.counts) == results.results.num_rows
            states[name] = results.state
            found.append(results)
    return found


def made(found: Sequence[StatefulResults], shards: Sequence[pa.Table], groups: int) -> Made:
    """Return what was made of the rows, and which of them failed, without an order."""
    fired = [row for one in found for row in one.results.drop_columns(["source_row"]).to_pylist()]
    numbers = [row for one in found for row in one.results["source_row"].to_pylist()]
    assert len(set(numbers)) == len(numbers), "results have numbers of their own"
    failed = [(place // groups, row, *error) for place, one in enumerate(found) for row, error in one.errors.items()]
    assert all(row < shards[shard].num_rows for shard, row, *_ in failed)
    return Counter(map(str, fired)), Counter(map(str, failed))


def drawn_shards(rng: random.Random) -> list[pa.Table]:
    """Draw rows that are in some disorder, of which some fail, in shards of any size."""
    shards, now = [], 0
    for _ in range(rng.randint(1, 6)):
        rows = []
        for _ in range(rng.choice([0, 1, 5, 40])):
            now += rng.choice([0, 10, 50, 200, 700])
            at = None if rng.random() < 0.03 else max(0, now - rng.choice([0, 0, 50, 400, 3000]))
            key = rng.choice([None, "a", "b", "c", "d", "e"])
            rows.append({"k": key, "n": rng.randrange(4), "at": at, "p": rng.choice("xyz"), "v": rng.randrange(100)})
        kind = pa.schema(
            {"k": pa.string(), "n": pa.int64(), "at": pa.timestamp("ms"), "p": pa.string(), "v": pa.int64()}
        )
        shards.append(pa.Table.from_pylist(rows, kind))
    return shards


@pytest.mark.parametrize("seed", range(40))
def test_what_fires_does_not_depend_on_the_number_of_groups(seed: int) -> None:
    rng = random.Random(seed)
    shards = drawn_shards(rng)
    windows: dict[str, Any] = rng.choice([{"tumbling": 1}, {"sliding": (1, 0.4)}, {"session": 0.5}, {"count": 3}])
    params = {
        "by": rng.choice([["k"], ["k", "n"], ["n"]]),
        "time": "at",
        "wait": rng.choice([0, 0.3]),
        "late": 0.5,
        "idle": rng.choice([None, 0.6]),
        "partition": rng.choice([None, "p"]),
        "strict": rng.random() < 0.2,
        "aggregate": {"n_": "count", "total": "sum:v", "all": "collect:v"},
        **windows,
    }
    expected = made(run(params, shards), shards, 1)
    for groups in (2, 5):
        of_groups = {**params, "groups": groups}
        assert made(run(of_groups, shards, in_memory=rng.random() < 0.5), shards, groups) == expected


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("groups", [1, 2, 5])
@pytest.mark.parametrize("rule", [Rule(1000, 300, 700), Rule(200, 300, 700, is_session=True)])
def test_groups_make_what_the_oracle_says(seed: int, groups: int, rule: Rule) -> None:
    rng = random.Random(seed)
    events = [Event(n, rng.randrange(9), 10_000 + n * 40 - rng.choice([0, 100, 600, 4000])) for n in range(120)]
    fired, late = windows_of(rule, events)
    cuts = sorted({0, 120, *(rng.randrange(120) for _ in range(4))})
    shards = [
        pa.Table.from_pylist([one._asdict() | {"at": one.at / 1000} for one in events[start:stop]])
        for start, stop in pairwise(cuts)
    ]
    size = {"session" if rule.is_session else "tumbling": rule.size / 1000}
    more = {"by": "key", "time": "at", "wait": 0.3, "late": 0.7, "aggregate": {"ids": "collect:id"}, "groups": groups}
    found = run({**size, **more}, shards)
    rows = [row for one in found for row in one.results.to_pylist()]
    assert Counter(map(str, fired)) == Counter(
        str(Fired(row["key"], row["window_id"], row["revision"], row["merged_into"], tuple(sorted(row["ids"] or ()))))
        for row in rows
    )
    refused = [shards[n // groups]["id"][place].as_py() for n, one in enumerate(found) for place in one.errors]
    assert sorted(refused) == sorted(late)


@pytest.mark.parametrize(
    "keys",
    [
        pa.array(range(1000)),
        pa.array([f"user-{n}" for n in range(1000)]),
        pa.array([datetime.fromtimestamp(n, UTC) for n in range(1000)]),
        pa.array([n / 8 for n in range(1000)]),
        pa.array([str(n) for n in range(1000)]).dictionary_encode(),
    ],
)
@pytest.mark.parametrize("groups", [2, 5, 8])
def test_each_row_is_of_one_group_and_groups_have_alike_many_keys(keys: pa.Array, groups: int) -> None:
    rows = pa.table({"k": keys})
    found = [rows_of_group(rows, ["k"], group, groups).tolist() for group in range(groups)]
    assert sorted(place for places in found for place in places) == list(range(1000))
    assert min(map(len, found)) > 0.6 * 1000 / groups


def group_of(*columns: Any, names: Sequence[str] | None = None) -> int:
    rows = pa.table({str(n): column for n, column in enumerate(columns)})
    by = list(names or map(str, range(len(columns))))
    (group,) = (group for group in range(64) if rows_of_group(rows, by, group, 64).size)
    return group


def test_keys_that_are_equal_are_of_one_group_whatever_their_type() -> None:
    one = {group_of(pa.array([1], kind)) for kind in (pa.int8(), pa.int64(), pa.uint64(), pa.float32(), pa.float64())}
    assert one == {group_of(pa.array([Decimal(1)])), group_of(pa.array([True]))}
    assert len(one) == 1
    micros = {group_of(pa.array([5_000_000], pa.int64()).cast(pa.timestamp("us")).cast(pa.timestamp(unit))) for unit in
              ("s", "ms", "us", "ns")}  # fmt: skip
    assert len(micros) == 1
    assert group_of(pa.array([None], pa.string())) == group_of(pa.nulls(1)) == group_of(pa.array([1]), names=["gone"])


@pytest.mark.parametrize("keys", [pa.array([[1]]), pa.array([{"a": 1}]), pa.array([math.nan])])
def test_rows_without_a_valid_key_fail_once(keys: pa.Array) -> None:
    rows = pa.table({"k": keys})
    found = run({"by": "k", "count": 1, "groups": 5}, [rows])
    assert [len(one.errors) for one in found].count(1) == 1
    assert sum(len(one.errors) for one in found) == 1


def test_rows_that_fail_move_the_clock() -> None:
    rows = pa.table({"k": ["a", "b", "a"], "at": [0, 100, 1], "v": [1, None, 2]})
    failing = rows.set_column(2, "v", pa.array(["x", "y", "z"]))
    params = {"by": "k", "time": "at", "tumbling": 10, "aggregate": {"total": "sum:v"}}
    (one, _) = run(params, [failing, rows.slice(0, 0)])
    assert [kind for kind, _ in one.errors.values()] == ["bad_value"] * 3
    assert (
        made(run(params, [failing, rows]), [failing, rows], 1)[1]
        == made(run({**params, "groups": 3}, [failing, rows]), [failing, rows], 3)[1]
    )


def test_a_state_in_memory_is_not_that_of_a_shard_of_the_same_name_that_was_planned_at_another_time() -> None:
    window, rows = Window(by="k", count=3), pa.table({"k": ["a"]})
    first = window.infer(StatefulRows(rows, StateStep("", 0, 1000), "", "stage/0-a1", bytes))
    again = window.infer(StatefulRows(pa.table({"k": ["a", "a"]}), StateStep("", 0, 2000), "", "stage/0-a1", bytes))
    window.infer(StatefulRows(rows, StateStep("", 0, 1000), "", "stage/0-a1", bytes))  # it ends later
    step = StateStep("stage/0-a1", 0, 3000, True, 2000)
    found = window.infer(StatefulRows(rows, step, "stage/0-a1", "stage/1-a1", lambda: again.state))
    assert found.results["rows"].to_pylist() == [3]
    assert first.state != again.state


def test_a_process_keeps_the_states_of_all_groups_in_memory() -> None:
    def load() -> bytes:
        raise AssertionError("it reads no state")

    window, rows = Window(by="k", count=9, groups=2), pa.table({"k": ["a", "b", "c"]})
    for number in range(2):
        for group in range(2):
            before, name = f"stage/{number - 1}-{group}" if number else "", f"stage/{number}-{group}"
            step = StateStep(before, before_ms=0, group=group, groups=2)
            window.infer(StatefulRows(rows, step, before, name, load))


def test_limits_are_divided_among_groups() -> None:
    rows = pa.table({"k": list(range(100))})
    found = run({"by": "k", "count": 2, "groups": 2, "max_windows": 21}, [rows])
    assert [100 - sum(len(one.errors) for one in found)] == [22]


def test_a_key_of_an_extension_type_is_of_the_group_of_the_same_text() -> None:
    text = pa.array(["user-1"])
    assert group_of(pa.ExtensionArray.from_storage(pa.json_(), text)) == group_of(text)
