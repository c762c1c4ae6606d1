"""`python -m benchmarks.embed_peer KIND ROWS THREADS`: texts embedded by something else, in one process.

KIND: `encode`, the model in a loop; `ray` or `daft`, which call it for blocks of rows. Reads lines with a number of
rows, the model's batch size and `torch` or `openvino`, and prints the seconds that each took.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from benchmarks.bare_embed import load

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK_ROWS = 1024
"""Rows that an engine hands over at a time: the model sorts them by length."""


def main() -> None:
    """Serve one kind."""
    kind, rows, threads = sys.argv[1:]
    from benchmarks.texts import texts

    corpus = pa.table({"text": texts(int(rows))})
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        if kind == "ray":
            from benchmarks.ray_peer import ray_peer

            with ray_peer(Path(folder), int(threads)):
                _serve(_with_ray, corpus, int(threads))
        else:
            for backend in ("torch", "openvino"):
                encoder(backend, int(threads))(["a text to warm up with"], 1)
            _serve(_with_daft if kind == "daft" else _alone, corpus, int(threads))


def _serve(run: Callable[[pa.Table, int, str, int], float], corpus: pa.Table, threads: int) -> None:
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        rows, size, backend = line.split()
        print(json.dumps({"took_s": run(corpus.slice(0, int(rows)), int(size), backend, threads)}), flush=True)


@cache
def encoder(backend: str, threads: int) -> Any:
    """Load the model once in a process."""
    import torch

    torch.set_num_threads(threads)
    model: Any = load()
    if backend == "openvino":
        return _converted(model, threads)

    def encode(texts: list[str], size: int) -> Any:
        return model.encode(texts, batch_size=size, normalize_embeddings=True, show_progress_bar=False)

    return encode


def _converted(model: Any, threads: int) -> Any:
    """Do what `SentenceTransformer.encode` does, with the model that Batchmill converts: sort rows, cut batches."""
    import torch

    from batchmill_worker.backends.openvino_backend import OpenVinoBackend, convert
    from batchmill_worker.backends.torch_backend import TorchBackend
    from batchmill_worker.runtime.torch_runtime import TorchRuntime

    source = TorchBackend(model.eval(), TorchRuntime("cpu", "float32"), "sentence_embedding")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        convert(source, dict(model.preprocess(["one text", "another text"])), "float32", Path(folder))
        compiled = OpenVinoBackend(Path(folder), "float32", threads)

    def encode(texts: list[str], size: int) -> Any:
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
        found = np.empty((len(texts), model.get_embedding_dimension()), np.float32)
        for start in range(0, len(order), size):
            places = order[start : start + size]
            features = dict(model.preprocess([texts[place] for place in places]))
            found[places] = torch.nn.functional.normalize(compiled.forward(features)).numpy()
        return found

    return encode


def column_of(vectors: Any) -> pa.FixedSizeListArray:
    """Vectors as a column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def _alone(table: pa.Table, size: int, backend: str, threads: int) -> float:
    encode = encoder(backend, threads)
    began = time.perf_counter()
    encode(table["text"].to_pylist(), size)
    return time.perf_counter() - began


def _with_daft(table: pa.Table, size: int, backend: str, threads: int) -> float:
    import daft
    from daft import DataType, col

    @daft.func.batch(return_dtype=DataType.embedding(DataType.float32(), 384), batch_size=BLOCK_ROWS)
    def embed(texts: Any) -> Any:
        return column_of(encoder(backend, threads)(texts.to_pylist(), size))

    began = time.perf_counter()
    back = daft.from_arrow(table).with_column("embedding", embed(col("text"))).to_arrow()
    return _checked(back, table, time.perf_counter() - began)


class _Embedder:
    def __init__(self, note: str, size: int, backend: str, threads: int) -> None:
        self._encode = encoder(backend, threads)
        self._encode(["a text to warm up with"], 1)
        self._size = size
        Path(note).write_text(str(time.monotonic()))

    def __call__(self, batch: pa.Table) -> pa.Table:
        return batch.append_column("embedding", column_of(self._encode(batch["text"].to_pylist(), self._size)))


def _with_ray(table: pa.Table, size: int, backend: str, threads: int) -> float:
    """Seconds since the model was loaded."""
    import ray
    from ray.data import ActorPoolStrategy

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        note = Path(folder) / "loaded"
        mapped = ray.data.from_arrow(table).map_batches(
            _Embedder,
            fn_constructor_args=(str(note), size, backend, threads),
            batch_format="pyarrow",
            batch_size=BLOCK_ROWS,
            num_cpus=threads,
            compute=ActorPoolStrategy(size=1),
        )
        back = pa.concat_tables(ray.get(mapped.to_arrow_refs()))
        return _checked(back, table, time.monotonic() - float(note.read_text()))


def _checked(back: pa.Table, table: pa.Table, took: float) -> float:
    if sorted(back["text"].to_pylist()) != sorted(table["text"].to_pylist()) or back["embedding"].null_count:
        raise RuntimeError("not every row was returned")
    return took


if __name__ == "__main__":
    from benchmarks import embed_peer

    embed_peer.main()  # by its name, so that Ray's processes import what they run
