"""A batch executor over small tables, with an operator that is ready."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pydantic import BaseModel

from batchmill.operators.contract import BatchFormat, OperatorDefinition
from batchmill.operators.registration import FunctionOperator
from batchmill_worker.engine.batch_executor import BatchExecutor
from batchmill_worker.models.ready_operator import ReadyOperator
from batchmill_worker.runtime.device import DeviceLock

if TYPE_CHECKING:
    from collections.abc import Callable


def ready(
    code: Any, batch_format: BatchFormat = "rows", batch_size: int | None = 4, *, has_succeeded: bool = False
) -> ReadyOperator:
    operator: Any = code if hasattr(code, "infer") else FunctionOperator(code, {})
    definition = OperatorDefinition(
        "probe", make=lambda: operator, params=BaseModel, batch_format=batch_format, batch_size=batch_size
    )
    made = ReadyOperator(definition, operator)
    made.has_succeeded = has_succeeded
    return made


def engine() -> BatchExecutor:
    return BatchExecutor(DeviceLock())


def numbers(count: int) -> pa.Table:
    return pa.table({"id": pa.array(range(count), pa.int64()), "text": [f"row {n}" for n in range(count)]})


def stopping_after(asked: int) -> Callable[[], bool]:
    answers = iter([False] * asked)
    return lambda: next(answers, True)
