"""Operators whose results depend on all rows: no part of them is ever taken for all."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from pydantic import BaseModel

from batchmill.errors import OperatorFailed
from batchmill.jobs.job import BatchPolicy, StageSpec
from batchmill.ledger.formats.lane_messages import LaneReply, LaneRequest, ReplyKind
from batchmill.operators.contract import OperatorDefinition, RowError
from batchmill.operators.registration import FunctionOperator
from batchmill_worker.engine.controllers import ControllerCache
from batchmill_worker.engine.executor import ShardTask
from batchmill_worker.engine.request_executor import RequestExecutor
from batchmill_worker.models.ready_operator import ReadyOperator
from batchmill_worker.runtime.device import DeviceLock
from batchmill_worker.runtime.device_time import DeviceTimeMeter
from batchmill_worker.slot.lane.answering import LaneAnswers
from batchmill_worker.slot.lane.outbox import Ticket
from support.hand_clock import HandClock
from support.shard_runs import engine, numbers


class NoParams(BaseModel):
    pass


class NoProfiles:
    def read(self, _: str) -> bytes | None:
        return None

    def write(self, name: str, profile: str) -> None:
        raise AssertionError((name, profile))


def ranking(code: Any, **options: Any) -> ReadyOperator:
    made: Any = FunctionOperator(code, {})
    options = options or {"takes_all": True}
    definition = OperatorDefinition("rank", make=lambda: made, params=NoParams, batch_size=None, **options)
    return ReadyOperator(definition, made)


def totals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"total": len(rows)} for _ in rows]


@pytest.mark.parametrize("error", [MemoryError, ValueError])
def test_a_failure_is_that_of_all_rows_and_no_half_is_computed(error: type[Exception]) -> None:
    calls: list[int] = []

    def small(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        calls.append(len(rows))
        if len(rows) > 3:
            raise error("too many")
        return totals(rows)

    with pytest.raises(OperatorFailed, match=f"all of its rows: {error.__name__}: too many"):
        engine().run(ranking(small), numbers(12), ShardTask(has_succeeded=True))
    assert calls == [12]


def test_a_batch_size_of_the_job_does_not_divide_them() -> None:
    operator = ranking(totals)
    spec = StageSpec(operator="rank", batch=BatchPolicy(size=4))
    batching = ControllerCache(NoProfiles(), "cpu").batching(operator.definition, spec)
    result = engine().run(operator, numbers(12), ShardTask(batching=batching))
    assert result.table["total"].to_pylist() == [12] * 12


def test_a_row_that_it_refuses_is_not_tried_again_without_the_others() -> None:
    def refusing(rows: list[dict[str, Any]]) -> list[Any]:
        return [RowError("later", retryable=True) if row["id"] == 1 else {"total": len(rows)} for row in rows]

    (dead,) = engine().run(ranking(refusing), numbers(3), ShardTask()).dead
    assert (dead.index, dead.retryable) == (1, False)


class Sent:
    """What would be sent to coordinators."""

    def __init__(self) -> None:
        self.results: list[list[dict[str, Any]]] = []

    def put(self, _: str, reply: LaneReply) -> None:
        assert reply.kind is ReplyKind.DONE
        self.results.append(pa.ipc.open_stream(reply.payload).read_all().to_pylist())


@pytest.mark.parametrize("options", [{"takes_all": True}, {"cacheable": False}])
def test_interactive_requests_are_computed_each_by_itself(options: dict[str, Any]) -> None:
    sent: Any = Sent()
    tickets = [
        Ticket(LaneRequest(str(place), "me", f"tenant{place}", "p", "m", "rank", {}, [{"id": 1}] * (place + 1)), sent)
        for place in range(3)
    ]
    requests = RequestExecutor(DeviceLock(), HandClock())
    answers = LaneAnswers(engine(), requests, ControllerCache(NoProfiles(), "cpu"))
    answers.answer(ranking(totals, **options), tickets, DeviceTimeMeter().open())
    assert sent.results == [[{"total": rows}] * rows for rows in (1, 2, 3)]


def test_a_table_of_one_row_fails_as_that_row() -> None:
    def failing(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        raise ValueError(len(rows))

    result = engine().run(ranking(failing), pa.table({"id": [1]}), ShardTask(has_succeeded=True))
    assert [row.index for row in result.dead] == [0]
