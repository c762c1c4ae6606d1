"""A row cache with an engine, on a real Valkey and a real folder, around operators that note what they compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from batchmill.errors import StorageError
from batchmill.jobs.job import StageSpec
from batchmill.ledger.workers.row_cache import Limits
from batchmill.operators.registration import REGISTRY
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from batchmill_coordinator.roles.cache_sweep import sweep_row_cache
from batchmill_worker.engine.batch_executor import BatchExecutor
from batchmill_worker.engine.executor import ShardTask
from batchmill_worker.models.ready_operator import ReadyOperator
from batchmill_worker.row_cache.cache import RowCache
from batchmill_worker.runtime.device import DeviceLock
from support.operators import tally_operators  # noqa: F401  # registers them
from support.operators.tally_operators import noted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from batchmill.ledger import Ledger
    from batchmill.operators.contract import OperatorDefinition
    from batchmill_worker.engine.shard_result import ShardResult

AMPLE = Limits(1 << 30, 1000)


class FlakyBlobs(BlobStore):
    """A blob store that is away now and then."""

    away = False

    def get(self, name: str) -> pa.Buffer:
        if self.away:
            raise StorageError("the disk is away.")
        return super().get(name)

    def put_table(self, name: str, table: pa.Table) -> int:
        if self.away:
            raise StorageError("the disk is away.")
        return super().put_table(name, table)


class Mill:
    """One worker process' cache and engine."""

    def __init__(self, ledger: Ledger, blobs: BlobStore, log: Path, limits: Limits = AMPLE) -> None:
        self.ledger = ledger
        self.blobs = blobs
        self.log = log
        self.cache = RowCache(ledger.row_cache, blobs, limits)

    def run(
        self,
        texts: Sequence[str],
        operator: str = "tally",
        definition: OperatorDefinition | None = None,
        should_stop: Any = lambda: False,
        **params: Any,
    ) -> ShardResult:
        """A shard of rows with these texts."""
        definition = definition or REGISTRY.get(operator)
        assert definition is not None
        spec = StageSpec(operator=operator, params={"log": str(self.log)} | params, cache=True)
        ready = ReadyOperator(definition, definition.build(spec.params))
        table = pa.table({"id": pa.array(range(len(texts)), pa.int64()), "text": pa.array(texts, pa.string())})
        if operator != "tally":  # whose rows are known by their text
            table = table.select(["text"])

        def compute(rows: pa.Table) -> ShardResult:
            return BatchExecutor(DeviceLock()).run(ready, rows, ShardTask(should_stop=should_stop))

        return self.cache.run(ready, spec, table, compute)

    def lengths(self, texts: Sequence[str], **params: Any) -> None:
        """Run a shard and compare its results with what they must be."""
        result = self.run(texts, **params)
        assert result.table.to_pydict() == {
            "id": list(range(len(texts))),
            "text": list(texts),
            "length": [len(text) * params.get("factor", 1) or None for text in texts],
        }

    @property
    def computed(self) -> list[str]:
        """The texts that were computed since this was last asked."""
        texts = sorted(noted(self.log))
        self.log.unlink(missing_ok=True)
        return texts

    @property
    def files(self) -> list[str]:
        return self.blobs.list("cache")


@pytest.fixture
def blobs(tmp_path: Path) -> FlakyBlobs:
    return FlakyBlobs(BlobStore.open(str(tmp_path / "blobs"), Locations(UNRESTRICTED)).root)


@pytest.fixture
def mill(ledger: Ledger, blobs: FlakyBlobs, tmp_path: Path) -> Iterator[Mill]:
    mill = Mill(ledger, blobs, tmp_path / "log")
    yield mill
    sweep_row_cache(ledger, blobs)
    assert len(mill.files) == ledger.row_cache.stats().segments
