"""`echo` gives its rows back, and copies none of them."""

from __future__ import annotations

import pyarrow as pa

from batchmill_worker.engine.batch_executor import BatchExecutor
from batchmill_worker.engine.executor import ShardTask
from batchmill_worker.models.operator_cache import OperatorCache
from batchmill_worker.models.setup_context import SetupContext
from batchmill_worker.runtime.device import DeviceLock
from batchmill_worker.slot.loading import load_operators


def test_echo_gives_back_the_very_columns_it_was_given() -> None:
    table = pa.table({"id": range(1000), "text": ["x"] * 1000, "tags": [["a"]] * 1000})
    definition = load_operators().get("echo")
    assert definition is not None
    with OperatorCache("cpu", SetupContext()).borrow(definition, {}) as operator:
        result = BatchExecutor(DeviceLock()).run(operator, table, ShardTask(carry=["text"]))
    assert result.table.column_names == ["text", "id", "tags"]
    assert result.table.select(table.column_names).equals(table)
    for name in table.column_names:
        came, gone = (t.column(name).chunk(0).buffers() for t in (table, result.table))
        assert [buffer and buffer.address for buffer in came] == [buffer and buffer.address for buffer in gone]
