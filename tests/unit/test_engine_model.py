"""The batch executor against a model: every row is in the result or dead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from batchmill.errors import OperatorFailed
from batchmill.operators.contract import BatchFormat, PartialResult, RowError
from batchmill_worker.engine.executor import ShardTask
from support.shard_runs import engine, ready, stopping_after

if TYPE_CHECKING:
    from collections.abc import Sequence


class Model:
    """An operator over `id` that raises for a batch with a poisoned row and rejects others."""

    def __init__(self, batch_format: BatchFormat, poisoned: set[int], rejected: set[int]) -> None:
        self.batch_format = batch_format
        self.poisoned = poisoned
        self.rejected = rejected

    def infer(self, batch: Any) -> Any:
        match self.batch_format:
            case "rows":
                ids = [row["id"] for row in batch]
            case "arrow":
                ids = batch["id"].to_pylist()
            case "numpy":
                ids = batch["id"].tolist()
        if self.poisoned.intersection(ids):
            raise ValueError("poison")
        done = [n for n in ids if n not in self.rejected]
        errors = {place: RowError("rejected") for place, n in enumerate(ids) if n in self.rejected}
        match self.batch_format:
            case "rows":
                return [errors.get(place, {"out": 3 * n}) for place, n in enumerate(ids)]
            case "arrow":
                return PartialResult(pa.table({"out": pa.array([3 * n for n in done], pa.int64())}), errors)
            case "numpy":
                return PartialResult({"out": np.array([3 * n for n in done], dtype=np.int64)}, errors)


class HookedModel(Model):
    """The same with work beside the device."""

    def prepare(self, batch: Any) -> Any:
        return batch

    def finish(self, outputs: Any) -> Any:
        return outputs


def expected_rows(
    table: pa.Table, carry: Sequence[str] | None, dead: set[int], settled: Sequence[int]
) -> list[dict[str, Any]]:
    carried = table.column_names if carry is None else carry
    rows = table.take(pa.array(settled, pa.int64())).to_pylist()
    return [{**{name: row[name] for name in carried}, "out": 3 * row["id"]} for row in rows if row["id"] not in dead]


@settings(deadline=None, max_examples=200)  # threads start in some of them: their time says nothing
@given(data=st.data())
def test_every_row_is_in_the_result_or_dead_whatever_fails_and_however_batched(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 40), "rows")
    ids = st.sets(st.integers(0, count - 1), max_size=7)
    poisoned, rejected = data.draw(ids, "poisoned"), data.draw(ids, "rejected")
    kind = data.draw(st.sampled_from([Model, HookedModel]))
    batch_format: BatchFormat = data.draw(st.sampled_from(["rows", "arrow", "numpy"]))
    operator = ready(
        kind(batch_format, poisoned, rejected),
        batch_format,
        data.draw(st.none() | st.integers(1, 45), "batch size"),
        has_succeeded=data.draw(st.booleans(), "has_succeeded"),
    )
    table = pa.table(
        {"id": range(count), "text": [None if n % 3 else str(n) for n in range(count)], "out": ["x"] * count}
    )
    carry = data.draw(st.none() | st.lists(st.sampled_from(["id", "text", "out"]), unique=True), "carry")
    stop = stopping_after(data.draw(st.integers(0, 60), "batches"))
    dead = poisoned | rejected
    hopeless = len(dead) == count and len(poisoned) > (1 if operator.has_succeeded else 0)

    try:
        result = engine().run(operator, table, ShardTask(carry=carry, should_stop=stop))
    except OperatorFailed:
        assert hopeless
        return
    assert result.stopped == (result.rows_settled < count)
    assert not hopeless or result.stopped
    settled = result.settled.tolist()
    assert settled == sorted(settled)
    if result.rows_done:
        assert result.table.to_pylist() == expected_rows(table, carry, dead, settled)
    assert [row.index for row in result.dead] == sorted(dead & set(settled))
    assert all(row.failure.error_type == ("ValueError" if row.index in poisoned else "RowError") for row in result.dead)
    assert [row.row["id"] for row in result.dead] == [row.index for row in result.dead]
