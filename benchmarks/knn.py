"""The ten nearest of 100,000 vectors for each of 1,000, exactly, beside `faiss.knn`, in CPU seconds of one process.

Both get arrays in memory, and use two threads; CPU seconds do not depend on what else runs. The vectors are those of
the benchmark `vectors`: a query has about 50 neighbours at almost the same distance.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from batchmill_worker.models.setup_context import SetupContext
from batchmill_worker.operators.knn import Knn
from batchmill_worker.vectors.nearest import Nearest
from batchmill_worker.vectors.products import has_fast_half, on_device
from benchmarks.figures import Bar, Figure, Report
from benchmarks.vectors import DIMENSION, K, column_of, points

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from benchmarks.scale import Scale

    Vectors = npt.NDArray[np.float32]

NAME = "knn"
QUERIES, THREADS = 1_000, 2
CPU = torch.device("cpu")


def measure(scale: Scale) -> Report:
    """Both in turns, `scale.runs` times over, and the operator over a Parquet file."""
    base, queries = points(scale.rows // 10, 0), points(QUERIES, 1)
    torch.set_num_threads(THREADS)
    faiss.omp_set_num_threads(THREADS)
    ours, theirs, operator = list[float](), list[float](), list[float]()
    same = 0.0
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        search = _operator(base, Path(folder))
        for _ in range(scale.runs):
            used, expected = _timed(lambda: faiss.knn(queries, base, K, metric=faiss.METRIC_INNER_PRODUCT)[1])
            theirs.append(used)
            used, found = _timed(lambda: _nearest(queries, base))
            ours.append(used)
            used, _ = _timed(lambda: search(queries))
            operator.append(used)
            same = float(np.mean(np.sort(found) == np.sort(expected)))
    figures = [
        Figure("knn", "CPU s", ours),
        Figure("faiss.knn", "CPU s", theirs),
        Figure("knn: the operator, its base loaded", "CPU s", operator),
    ]
    ratio = statistics.median(one / other for one, other in zip(theirs, ours, strict=True))
    bars = [
        Bar("faiss.knn over knn, CPU seconds", ratio, "at least", 0.9, "x"),
        Bar("the same rows are found", same, "at least", 0.999, ""),
    ]
    half = (
        "multiplies bfloat16 in hardware" if has_fast_half(CPU, DIMENSION) else "has no bfloat16: products are float32"
    )
    settings = {"base": len(base), "queries": QUERIES, "dimension": DIMENSION, "k": K, "threads": THREADS}
    return Report(NAME, settings | {"runs": scale.runs}, figures, bars, [f"This processor {half}."])


def _nearest(queries: Vectors, base: Vectors) -> npt.NDArray[np.int64]:
    with torch.inference_mode():
        nearest = Nearest(on_device(torch.from_numpy(queries), "cosine", CPU), K, -math.inf)
        nearest.add(on_device(torch.from_numpy(base), "cosine", CPU), 0)
        return nearest.places.numpy()


def _operator(base: Vectors, folder: Path) -> Callable[[Vectors], Any]:
    pq.write_table(pa.table({"id": range(len(base)), "embedding": column_of(base)}), folder / "base.parquet")
    locations = Locations(UNRESTRICTED)
    operator = Knn(base=str(folder / "base.parquet"), k=K)
    with SetupContext(locations, blobs=BlobStore.open(str(folder / "blobs"), locations)).active():
        operator.setup("cpu")
    return lambda queries: operator.finish(operator.infer(pa.table({"embedding": column_of(queries)})))


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    result = call()
    return time.process_time() - began, result
