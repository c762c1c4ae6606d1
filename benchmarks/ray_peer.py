"""Ray Data as a peer: `map_batches` with a function that gives its batch back."""

from __future__ import annotations

import logging
import os
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OBJECT_STORE_BYTES = 2 << 30
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",  # it listens on this machine only, and a token would be kept in the home folder
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@dataclass(frozen=True, slots=True)
class RaySetting:
    """How the rows are cut. None: Ray's own choice, a batch as large as its block."""

    blocks: int
    batch_size: int | None

    def __str__(self) -> str:
        return f"{self.blocks} block{'s' if self.blocks > 1 else ''}, batch size {self.batch_size or 'by default'}"


BY_DEFAULT = RaySetting(blocks=1, batch_size=None)
CANDIDATES = tuple(RaySetting(blocks, size) for blocks in (1, 2, 8) for size in (None, 8192, 65536))


class RayPeer:
    """A client of a Ray that runs on this machine."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency

    def table(self, table: pa.Table, setting: RaySetting) -> float:
        """A table in, a table in the driver's hands; seconds."""
        import ray

        began = time.perf_counter()
        dataset = ray.data.from_arrow(_cut(table, setting.blocks))
        back = pa.concat_tables(ray.get(self._mapped(dataset, setting).to_arrow_refs()))
        took = time.perf_counter() - began
        if not back.combine_chunks().equals(table.combine_chunks()):
            raise RuntimeError("Ray did not give the rows back as they were")
        return took

    def rows(self, rows: list[dict[str, Any]], setting: RaySetting) -> float:
        """A list of dicts in, a list of dicts in the driver's hands; seconds."""
        import ray

        began = time.perf_counter()
        dataset = ray.data.from_items(rows, override_num_blocks=setting.blocks)
        back = self._mapped(dataset, setting).take_all()
        took = time.perf_counter() - began
        if back != rows:
            raise RuntimeError("Ray did not give the rows back as they were")
        return took

    def files(self, source: Path, output: Path) -> float:
        """A folder of Parquet files in, another out; seconds. Ray cuts the rows as it thinks best."""
        import ray

        began = time.perf_counter()
        self._mapped(ray.data.read_parquet(str(source)), BY_DEFAULT).write_parquet(str(output))
        return time.perf_counter() - began

    def best_setting(self, table: pa.Table) -> RaySetting:
        """The fastest of `CANDIDATES`, by the better of two runs each after one that warms up."""
        self.table(table, CANDIDATES[0])
        return min(CANDIDATES, key=lambda setting: min(self.table(table, setting) for _ in range(2)))

    def _mapped(self, dataset: Any, setting: RaySetting) -> Any:
        from ray.data import TaskPoolStrategy

        return dataset.map_batches(
            lambda batch: batch,
            batch_format="pyarrow",
            batch_size=setting.batch_size,
            zero_copy_batch=True,
            compute=TaskPoolStrategy(size=self._concurrency),
        )


@contextmanager
def ray_peer(folder: Path, concurrency: int) -> Iterator[RayPeer]:
    """A Ray of this machine alone, that keeps input order and says nothing. `folder`'s path must be short."""
    os.environ.update(ENVIRONMENT)
    import ray
    import ray.data

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"ray\..*")
        ray.init(
            num_cpus=concurrency,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=str(folder),
            _node_ip_address="127.0.0.1",
        )
        try:
            _hush()
            ray.data.DataContext.get_current().execution_options.preserve_order = True
            yield RayPeer(concurrency)
        finally:
            ray.shutdown()


def _hush() -> None:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("ray")]:
        logging.getLogger(name).setLevel(logging.ERROR)


def _cut(table: pa.Table, pieces: int) -> list[pa.Table]:
    step = -(-table.num_rows // pieces)
    return [table.slice(start, step) for start in range(0, table.num_rows, step)]
