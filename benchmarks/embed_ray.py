"""Ray Data that embeds: `map_batches` over one actor with the model and all cores."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from benchmarks.bare_embed import BATCH, load

if TYPE_CHECKING:
    from pathlib import Path

BATCH_SIZES = (32, 256, 1024)


class _Embedder:
    def __init__(self, note: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._model: Any = load()
        self._model.encode(["a text to warm up with"])
        with open(note, "w") as file:  # noqa: PTH123  # runs in Ray's process
            file.write(str(time.monotonic()))

    def __call__(self, batch: pa.Table) -> pa.Table:
        vectors = self._model.encode(batch["text"].to_pylist(), batch_size=BATCH, normalize_embeddings=True)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
        return batch.append_column("embedding", flat)


def embed_with_ray(table: pa.Table, batch_size: int, threads: int, folder: Path) -> float:
    """All rows embedded and in the driver's hands; seconds since the model was loaded."""
    import ray
    from ray.data import ActorPoolStrategy

    note = folder / "ray-loaded"
    mapped = ray.data.from_arrow(table).map_batches(
        _Embedder,
        fn_constructor_args=(str(note), threads),
        batch_format="pyarrow",
        batch_size=batch_size,
        num_cpus=threads,
        compute=ActorPoolStrategy(size=1),
    )
    back = pa.concat_tables(ray.get(mapped.to_arrow_refs()))
    took = time.monotonic() - float(note.read_text())
    if back.num_rows != table.num_rows:
        raise RuntimeError("Ray did not give every row back")
    return took


def best_batch_size(table: pa.Table, threads: int, folder: Path) -> int:
    """The fastest of `BATCH_SIZES`."""
    return min(BATCH_SIZES, key=lambda size: embed_with_ray(table, size, threads, folder))
