"""Whatever a hook raises is a failure of the row or of the attempt."""

from __future__ import annotations

from typing import Any, cast

import pyarrow as pa
import pytest
from pydantic import create_model

from batchmill.errors import InvalidOperator, OperatorFailed
from batchmill.operators.contract import OperatorDefinition
from batchmill_worker.engine.batch_executor import BatchExecutor
from batchmill_worker.engine.executor import ShardTask
from batchmill_worker.models.operator_cache import OperatorCache
from batchmill_worker.models.setup_context import SetupContext
from batchmill_worker.runtime.device import DeviceLock
from batchmill_worker.runtime.failures import Failure, UserCodeExit
from batchmill_worker.runtime.hooks import HookGuard
from batchmill_worker.runtime.slot_board import Hook
from batchmill_worker.slot.loading import load_operators
from support.operators.hostile_operators import RAISED, Hostile

KINDS = sorted(RAISED)


def definition(hook: str, how: str) -> OperatorDefinition:
    return OperatorDefinition(
        "hostile",
        make=lambda: cast("Any", Hostile(hook=hook, how=how, at=1)),
        params=create_model("Params"),
        batch_size=2,
    )


def cache() -> OperatorCache:
    return OperatorCache("cpu", SetupContext())


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("hook", ["prepare", "infer", "finish"])
def test_what_a_hook_raises_for_a_row_is_that_rows_failure(hook: str, how: str) -> None:
    with cache().borrow(definition(hook, how), {}) as operator:
        table = pa.table({"id": [0, 1, 2]})
        result = BatchExecutor(DeviceLock()).run(operator, table, ShardTask(carry=[]))
    assert result.table.to_pylist() == [{"out": 0}, {"out": 2}]
    (dead,) = result.dead
    assert (dead.index, dead.failure.error_type.rpartition(".")[2]) == (1, RAISED[how].__name__)
    assert dead.failure.message == "as asked"


@pytest.mark.parametrize("how", KINDS)
@pytest.mark.parametrize("hook", ["setup", "constructor", "memory_bytes"])
def test_what_setting_up_raises_is_the_operators_failure_and_the_next_shard_tries_again(hook: str, how: str) -> None:
    operators = cache()
    for _ in range(2):
        with pytest.raises(OperatorFailed, match=RAISED[how].__name__), operators.borrow(definition(hook, how), {}):
            pytest.fail("it was set up")


@pytest.mark.parametrize("how", KINDS)
def test_what_costs_raises_is_the_operators_failure(how: str) -> None:
    with (
        pytest.raises(OperatorFailed, match=RAISED[how].__name__),
        cache().borrow(definition("costs", how), {}) as operator,
    ):
        BatchExecutor(DeviceLock()).run(operator, pa.table({"id": [1]}))


@pytest.mark.parametrize("how", KINDS)
def test_what_teardown_raises_costs_nothing(how: str, caplog: pytest.LogCaptureFixture) -> None:
    operators = cache()
    with operators.borrow(definition("teardown", how), {}):
        pass
    operators.close()
    assert operators.loaded() == []
    assert "failed in teardown" in caplog.text


@pytest.mark.parametrize("how", KINDS)
def test_what_the_cost_of_a_row_raises_costs_as_much_as_its_neighbours(how: str) -> None:
    class Costly:
        def cost(self, row: dict[str, Any]) -> float:
            if row["id"] == 1:
                raise RAISED[how]
            return 3.0

        def infer(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [{"out": row["id"]} for row in rows]

    made = OperatorDefinition("costly", make=cast("Any", Costly), params=create_model("Params"))
    with cache().borrow(made, {}) as operator:
        result = BatchExecutor(DeviceLock()).run(operator, pa.table({"id": [0, 1]}), ShardTask(carry=[]))
    assert result.table.to_pylist() == [{"out": 0}, {"out": 1}]


@pytest.mark.parametrize("how", KINDS)
def test_what_a_module_raises_when_it_is_imported_names_the_module(
    how: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"raises_{how}"
    (tmp_path / f"{name}.py").write_text(
        f"from support.operators.hostile_operators import RAISED\nraise RAISED[{how!r}]('as asked')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidOperator, match=f"'{name}'.*{RAISED[how].__name__}"):
        load_operators([name])


def test_ordinary_exceptions_pass_a_guard_unchanged_and_others_are_reported_as_themselves() -> None:
    guard = HookGuard()
    with pytest.raises(StopIteration), guard.calling(Hook.INFER):
        next(iter(()))
    with pytest.raises(UserCodeExit) as caught, guard.calling(Hook.INFER):
        raise SystemExit(3)
    failure = Failure.of(caught.value)
    assert (failure.error_type, failure.message) == ("SystemExit", "3")
