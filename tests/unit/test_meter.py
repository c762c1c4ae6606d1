"""The meter: every microsecond of a process has one place."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from batchmill.cost import Parts
from batchmill.errors import OperatorFailed
from batchmill.operators.contract import FunctionOperator, OperatorDefinition
from batchmill_worker.batching.sizing import Batching
from batchmill_worker.engine.engine import Engine
from batchmill_worker.models.operator_cache import ReadyOperator
from batchmill_worker.runtime.cost_meter import Account, Meter
from batchmill_worker.runtime.device import DeviceLock
from support.hand_clock import HandClock

LETTERS = pa.table({"size": [4, 4, 4, 1, 2, 2]})


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def meter(clock: HandClock) -> Meter:
    return Meter(clock)


def test_time_with_a_batch_on_the_device_is_useful_but_for_its_padding(meter: Meter, clock: HandClock) -> None:
    account = meter.open()
    with account.inferring("batch", units=8.0, true_units=6.0):
        clock.now_s += 4
        assert account.used_us == 4_000_000
    assert account.close() == Parts(useful=3_000_000, padding=1_000_000)


def test_time_of_a_batch_without_any_cost_is_useful(meter: Meter, clock: HandClock) -> None:
    account = meter.open()
    with account.inferring("batch", units=0.0, true_units=0.0):
        clock.now_s += 1
    assert account.close() == Parts(useful=1_000_000)


def test_a_batch_that_raises_and_one_whose_results_are_not_kept_were_in_vain(meter: Meter, clock: HandClock) -> None:
    account = meter.open()

    def fail() -> None:
        with account.inferring("bad", 8.0, 6.0):
            clock.now_s += 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    for batch in ("kept", "not kept"):
        with account.inferring(batch, 8.0, 6.0):
            clock.now_s += 4
    account.in_vain("not kept")
    account.in_vain("not kept")
    account.in_vain("bad")
    assert account.close() == Parts(useful=3_000_000, padding=1_000_000, retried=5_000_000)


def test_attempts_that_keep_the_device_waiting_share_that_time(meter: Meter, clock: HandClock) -> None:
    first = meter.open()
    clock.now_s += 1
    second = meter.open()
    clock.now_s += 3
    assert second.close() == Parts(idle=1_500_000)
    clock.now_s += 1
    assert first.close() == Parts(idle=3_500_000)
    clock.now_s += 7
    assert first.close() == Parts(idle=3_500_000)
    with meter.looking():
        assert meter.unused_us == 7_000_000


def test_a_model_that_is_set_up_beside_a_batch_costs_only_the_time_that_the_batch_leaves(
    meter: Meter, clock: HandClock
) -> None:
    computes, loads = meter.open(), meter.open()
    with loads.loading():
        clock.now_s += 1
        with computes.inferring("batch", 1.0, 1.0):
            clock.now_s += 4
        clock.now_s += 2
    assert (computes.close(), loads.close()) == (Parts(useful=4_000_000), Parts(load=3_000_000))


steps = st.lists(
    st.tuples(st.sampled_from(["open", "close", "infer", "fail", "load", "end"]), st.integers(0, 3_000_001)),
    max_size=40,
)


@given(steps)
def test_whatever_happens_the_parts_add_up_to_the_time_that_passed(taken: list[tuple[str, int]]) -> None:
    clock = HandClock()
    meter = Meter(clock)
    began_us = int(clock.monotonic() * 1_000_000)
    accounts: list[Account] = []
    used: list[Parts] = []
    inside: dict[str, Any] = {}  # what is on the device, and what is set up
    for step, passed_us in taken:
        clock.now_s += passed_us / 1_000_000
        if step == "open":
            accounts.append(meter.open())
        elif step == "end":
            for context in inside.values():
                context.__exit__(None, None, None)
            inside.clear()
        elif step == "close" and accounts and not inside:
            used.append(accounts.pop().close())
        elif step == "load" and accounts and "load" not in inside:
            inside["load"] = accounts[0].loading()
            inside["load"].__enter__()
        elif step in ("infer", "fail") and accounts and "infer" not in inside:
            inside["infer"] = accounts[-1].inferring(object(), 7.0, 5.0)
            inside["infer"].__enter__()
            if step == "fail":
                clock.now_s += 1
                inside.pop("infer").__exit__(None, None, None)
    for context in inside.values():
        context.__exit__(None, None, None)
    used += [account.close() for account in accounts]
    with meter.looking():
        unused_us = meter.unused_us
    assert sum(parts.total for parts in used) + unused_us == int(clock.monotonic() * 1_000_000) - began_us
    assert all(part >= 0 for parts in used for part in astuple(parts))


def run(code: Any, clock: HandClock, account: Account, *, finish: Any = None) -> None:
    operator: Any = FunctionOperator(code, {})
    operator.cost = lambda row: float(row["size"])
    if finish:
        operator.finish = finish
    definition = OperatorDefinition("probe", lambda: operator, BaseModel, padded=True, batch_size=3)
    Engine(DeviceLock(), clock).run(ReadyOperator(definition, operator), LETTERS, account=account, batching=Batching())


def test_the_engine_tells_padding_from_what_rows_need(meter: Meter, clock: HandClock) -> None:
    def code(rows: list[dict[str, Any]]) -> list[Any]:
        clock.now_s += max(row["size"] for row in rows) * len(rows)
        return [{} for _ in rows]

    account = meter.open()
    run(code, clock, account)
    assert account.close() == Parts(useful=17_000_000, padding=1_000_000)  # 4, 4, 4 and 2, 2, 1


def test_the_engine_tells_what_ran_in_vain(meter: Meter, clock: HandClock) -> None:
    def code(rows: list[dict[str, Any]]) -> list[Any]:
        clock.now_s += len(rows)
        if any(row["size"] == 1 for row in rows):
            raise ValueError("too small")
        return [{} for _ in rows]

    account = meter.open()
    run(code, clock, account)
    parts = account.close()
    assert parts.useful + parts.padding == 5_000_000  # the others: three at once, and two in what halves were left
    assert parts.retried == parts.total - 5_000_000 > 0


def test_a_batch_that_fails_when_it_is_finished_ran_in_vain(meter: Meter, clock: HandClock) -> None:
    def code(rows: list[dict[str, Any]]) -> list[Any]:
        clock.now_s += len(rows)
        return rows

    def finish(outputs: list[Any]) -> list[Any]:
        raise ValueError(f"{len(outputs)} results do not fit")

    account = meter.open()
    with pytest.raises(OperatorFailed):
        run(code, clock, account, finish=finish)
    parts = account.close()
    assert parts == Parts(retried=parts.total)
    assert parts.retried > 6_000_000
