"""How much of what comparing all of the demo's vectors finds its index finds as well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pyarrow as pa


def read_vectors(table: Path) -> pa.Table:
    """Read a Lance table, as any of its tools does."""
    import lance

    return lance.dataset(str(table)).to_table(columns=["text", "embedding"])


def recall(chunks: pa.Table, search: Callable[[Sequence[float]], set[str]], asked: int, count: int) -> float:
    """Return the share of the nearest chunks of some chunks that a search finds, 0 to 1.

    chunks: with columns `text` and `embedding`. search: returns the texts of the `count` nearest chunks of a vector.
    asked: how many chunks are looked up. Chunks as near as the last of the nearest ones are found as well.
    """
    import numpy as np

    vectors = _unit_vectors(chunks)
    texts = chunks["text"].to_pylist()
    count = min(count, len(vectors))
    found = nearest = 0
    places = np.unique(np.linspace(0, len(vectors) - 1, asked).astype(np.int64))
    for place in places:
        scores = vectors @ vectors[place]
        least = np.sort(scores)[-count] - 1e-3  # an index may keep vectors in half precision
        near = {texts[int(one)] for one in np.flatnonzero(scores >= least)}
        nearest += min(len(near), count)
        found += min(len(near & search(vectors[place].tolist())), count)
    return found / nearest


def _unit_vectors(table: pa.Table) -> Any:
    """Return the column `embedding` as a numpy array with one unit vector per row."""
    import numpy as np

    column = table.column("embedding").combine_chunks()
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
