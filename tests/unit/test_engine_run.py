"""The batch executor: order, carried columns, whose fault a failure is, stopping."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from batchmill.errors import InvalidOperator, InvalidParams, InvalidRows, OperatorFailed
from batchmill.operators.contract import RowError
from batchmill.operators.registration import FunctionOperator
from batchmill_worker.engine.batch_executor import BatchExecutor
from batchmill_worker.engine.executor import ShardTask
from batchmill_worker.models.ready_operator import ReadyOperator
from batchmill_worker.runtime.device import DeviceLock
from support.hand_clock import HandClock
from support.shard_runs import engine, numbers, ready, stopping_after

if TYPE_CHECKING:
    from collections.abc import Callable


def double(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"twice": 2 * row["id"]} for row in rows]


def failing_on(bad: Callable[[int], bool], error: type[Exception] = ValueError) -> Callable[[Any], Any]:
    def code(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in rows:
            if bad(row["id"]):
                raise error(f"cannot do {row['id']}")
        return double(rows)

    return code


class Counter(HandClock):
    """A clock that counts."""

    def monotonic(self) -> float:
        self.now_s += 1
        return self.now_s


# --- results ---


def test_results_come_in_input_order_with_all_columns_carried() -> None:
    result = engine().run(ready(double), numbers(10))
    assert result.table.column_names == ["id", "text", "twice"]
    assert result.table.to_pylist() == [{"id": n, "text": f"row {n}", "twice": 2 * n} for n in range(10)]
    assert (result.rows_settled, result.rows_done, result.dead, result.stopped) == (10, 10, (), False)


def test_only_the_columns_asked_for_are_carried() -> None:
    assert engine().run(ready(double), numbers(5), ShardTask(carry=["text"])).table.column_names == ["text", "twice"]
    assert engine().run(ready(double), numbers(5), ShardTask(carry=[])).table.column_names == ["twice"]


def test_a_made_column_replaces_the_carried_one_of_its_name_in_its_place() -> None:
    def upper(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{"length": len(row["text"]), "id": str(row["id"])} for row in rows]

    table = engine().run(ready(upper), numbers(6)).table
    assert table.column_names == ["id", "text", "length"]
    assert table["id"].to_pylist() == ["0", "1", "2", "3", "4", "5"]


def test_no_rows_make_no_call_and_an_empty_table() -> None:
    def never(rows: Any) -> Any:
        raise AssertionError(rows)

    result = engine().run(ready(never), numbers(0), ShardTask(carry=["id"]))
    assert result.table.schema == pa.schema([("id", pa.int64())])
    assert result.rows_settled == 0


def test_a_missing_carried_column_is_named() -> None:
    with pytest.raises(InvalidRows, match=r"carries the column 'txt'.*Did you mean 'text'"):
        engine().run(ready(double), numbers(1), ShardTask(carry=["txt"]))


def test_results_without_any_column_are_refused() -> None:
    def nothing(rows: list[Any]) -> list[Any]:
        return [{} for _ in rows]

    with pytest.raises(InvalidOperator, match="made no column, and the job carries none"):
        engine().run(ready(nothing), numbers(3), ShardTask(carry=[]))
    assert engine().run(ready(nothing), numbers(3), ShardTask(carry=["id"])).table.num_rows == 3


def test_without_a_batch_size_a_shard_is_one_batch() -> None:
    result = engine().run(ready(lambda table: table, "arrow", None), numbers(1000))
    assert [timing.rows for timing in result.timings] == [1000]


def test_only_the_device_call_is_timed() -> None:
    result = BatchExecutor(DeviceLock(), Counter()).run(ready(double), numbers(10))
    assert [(timing.rows, timing.busy_s) for timing in result.timings] == [(4, 1.0), (4, 1.0), (2, 1.0)]
    assert result.busy_s == 3.0


# --- whose fault a failure is ---


def test_a_row_that_raises_is_left_out_and_reported() -> None:
    result = engine().run(ready(failing_on(lambda n: n == 5)), numbers(10))
    assert result.table["id"].to_pylist() == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    assert result.table["twice"].to_pylist() == [0, 2, 4, 6, 8, 12, 14, 16, 18]
    (dead,) = result.dead
    assert (dead.index, dead.failure.error_type, dead.failure.message) == (5, "ValueError", "cannot do 5")
    assert dead.row == {"id": 5, "text": "row 5"}
    assert dead.retryable
    assert result.rows_done == 9


def test_the_traceback_of_a_dead_row_shows_the_users_code_alone() -> None:
    result = engine().run(ready(failing_on(lambda n: n == 1)), numbers(3))
    trace = result.dead[0].failure.traceback
    assert "raise error(f" in trace
    assert trace.endswith("ValueError: cannot do 1\n")
    assert "batchmill_worker" not in trace
    assert "operator.py" not in trace


def test_a_row_error_that_is_returned_or_raised_gives_up_on_its_row() -> None:
    def returns(rows: list[Any]) -> list[Any]:
        return [RowError("too long", retryable=True) if row["id"] == 2 else {"ok": True} for row in rows]

    def raises(rows: list[Any]) -> list[Any]:
        if any(row["id"] == 2 for row in rows):
            raise RowError("too long", retryable=True)
        return [{"ok": True} for _ in rows]

    for code in (returns, raises):
        result = engine().run(ready(code), numbers(4))
        (dead,) = result.dead
        assert (dead.index, dead.failure.error_type, dead.failure.message) == (2, "RowError", "too long")
        assert dead.retryable
        assert dead.failure.traceback == ""
        assert result.table["id"].to_pylist() == [0, 1, 3]


def test_rows_that_the_operator_rejects_itself_are_never_held_against_it() -> None:
    result = engine().run(ready(lambda rows: [RowError("no") for _ in rows]), numbers(20), ShardTask(carry=["id"]))
    assert len(result.dead) == 20
    assert result.table.num_rows == 0
    assert result.table.column_names == ["id"]


def test_an_operator_that_fails_on_all_rows_alike_fails_after_eight_of_them() -> None:
    calls: list[int] = []

    def broken(rows: list[Any]) -> Any:
        calls.append(len(rows))
        raise KeyError("weights")

    with pytest.raises(
        OperatorFailed, match=r"'probe' failed on each of the first 8 rows.*KeyError: 'weights'"
    ) as caught:
        engine().run(ready(broken, batch_size=64), numbers(64))
    assert calls.count(1) == 8
    assert caught.value.details["error_type"] == "KeyError"
    assert "raise KeyError" in caught.value.details["traceback"]


def test_an_operator_that_fails_on_both_rows_of_a_small_shard_is_at_fault() -> None:
    with pytest.raises(OperatorFailed, match="each of the first 2 rows"):
        engine().run(ready(failing_on(lambda _: True), has_succeeded=True), numbers(2))


def test_a_single_row_is_at_fault_only_if_the_operator_has_succeeded_before() -> None:
    with pytest.raises(OperatorFailed, match="failed on the first row it was given: ValueError: cannot do 0"):
        engine().run(ready(failing_on(lambda _: True)), numbers(1))
    operator = ready(failing_on(lambda n: n == 0))
    engine().run(operator, numbers(5).slice(1))
    result = engine().run(operator, numbers(1))
    assert [row.index for row in result.dead] == [0]


def test_rows_that_fail_in_different_ways_are_at_fault_themselves() -> None:
    def code(rows: list[Any]) -> Any:
        raise (ValueError if rows[0]["id"] % 2 else TypeError)("odd" if rows[0]["id"] % 2 else "even")

    result = engine().run(ready(code, batch_size=1), numbers(20), ShardTask(carry=["id"]))
    assert len(result.dead) == 20


def test_rows_that_fail_after_a_success_are_at_fault_however_many() -> None:
    result = engine().run(ready(failing_on(lambda n: n > 0), batch_size=1), numbers(50))
    assert result.table["id"].to_pylist() == [0]
    assert len(result.dead) == 49


@pytest.mark.parametrize("hook", ["prepare", "infer", "finish"])
def test_a_failing_row_is_found_whichever_hook_raises(hook: str) -> None:
    class Hooked:
        def _pass(self, name: str, rows: list[Any]) -> list[Any]:
            if name == hook and any(row["id"] == 3 for row in rows):
                raise ValueError(name)
            return rows

        def prepare(self, rows: list[Any]) -> list[Any]:
            return self._pass("prepare", rows)

        def infer(self, rows: list[Any]) -> list[Any]:
            return self._pass("infer", rows)

        def finish(self, rows: list[Any]) -> list[Any]:
            return self._pass("finish", rows)

    result = engine().run(ready(Hooked()), numbers(11))
    assert result.table["id"].to_pylist() == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    assert [(row.index, row.failure.message) for row in result.dead] == [(3, hook)]


def test_a_batch_that_does_not_fit_into_memory_is_run_in_halves() -> None:
    def small_device(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if len(rows) > 3:
            raise MemoryError(f"{len(rows)} rows")
        return double(rows)

    result = engine().run(ready(small_device, batch_size=16), numbers(30))
    assert result.table["twice"].to_pylist() == [2 * n for n in range(30)]
    assert max(timing.rows for timing in result.timings) <= 3


@pytest.mark.parametrize("error", [InvalidOperator, InvalidParams, InvalidRows])
def test_errors_raised_on_purpose_end_the_shard_at_once(error: type[Exception]) -> None:
    calls = []

    def code(rows: list[Any]) -> Any:
        calls.append(rows)
        raise error("wrong column")

    with pytest.raises(error, match="wrong column"):
        engine().run(ready(code), numbers(4))
    assert len(calls) == 1


@pytest.mark.parametrize("with_hooks", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupts_of_every_row_are_the_operators_failure(error: type[BaseException], with_hooks: bool) -> None:
    class Interrupted:
        def infer(self, rows: list[Any]) -> list[Any]:
            if not with_hooks:
                raise error
            return rows

    class InFinish(Interrupted):
        def finish(self, rows: list[Any]) -> list[Any]:
            raise error(len(rows))

    with pytest.raises(OperatorFailed, match=error.__name__):
        engine().run(ready(InFinish() if with_hooks else Interrupted()), numbers(10))


def test_a_wrong_return_value_is_the_operators_fault() -> None:
    with pytest.raises(InvalidOperator, match=r"operator 'probe' returned .* expected a list of 4 dicts, got int"):
        engine().run(ready(lambda _rows: 5), numbers(10))


# --- stopping ---


def test_a_stopped_shard_gives_what_it_finished() -> None:
    result = engine().run(ready(double), numbers(20), ShardTask(should_stop=stopping_after(2)))
    assert result.stopped
    assert result.rows_settled == 8
    assert result.table["twice"].to_pylist() == [2 * n for n in range(8)]


def test_a_shard_that_is_stopped_when_it_is_through_is_not_stopped() -> None:
    result = engine().run(ready(double), numbers(8), ShardTask(should_stop=stopping_after(2)))
    assert not result.stopped
    assert result.rows_settled == 8


def test_a_shard_that_is_stopped_before_anything_is_known_gives_up_on_no_row() -> None:
    operator = ready(failing_on(lambda n: n < 4), batch_size=1)
    result = engine().run(operator, numbers(8), ShardTask(should_stop=stopping_after(3)))
    assert result.stopped
    assert (result.rows_settled, result.dead, result.table.num_rows) == (0, (), 0)


def declaring(code: Any, *makes: str) -> ReadyOperator:
    operator: Any = FunctionOperator(code, {})
    return ReadyOperator(dataclasses.replace(ready(code, "arrow").definition, makes=makes), operator)


def test_announced_columns_and_those_of_the_input_may_be_made_and_no_others() -> None:
    def add(batch: pa.Table) -> pa.Table:
        return batch.append_column("twice", batch["id"])

    assert engine().run(declaring(add, "twice", "thrice"), numbers(9)).table.column_names == ["id", "text", "twice"]
    with pytest.raises(InvalidOperator, match=r"made the column 'twice', but announces only: twicee\. Did you mean"):
        engine().run(declaring(add, "twicee"), numbers(9))
    with pytest.raises(InvalidOperator, match=r"announces only: none\. Add the column to makes"):
        engine().run(declaring(add), numbers(9))
