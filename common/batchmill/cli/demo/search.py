"""Similarity search over the demo's vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Match:
    """A chunk near a question; `score` is the cosine similarity of their vectors."""

    topic: str
    text: str
    score: float


def read_vectors(folder: Path) -> pa.Table:
    """Read a folder of Parquet files, as any Parquet tool does."""
    import pyarrow.dataset as ds

    return ds.dataset(str(folder), format="parquet").to_table()


def nearest(questions: pa.Table, chunks: pa.Table, count: int) -> list[list[Match]]:
    """Return the `count` nearest chunks of each question, best first, equal texts once.

    Both tables have a column `embedding`; the chunks also have `topic` and `text`.
    """
    scores = _unit_vectors(questions) @ _unit_vectors(chunks).T
    topics, texts = chunks.column("topic"), chunks.column("text")
    found = []
    for row in scores:
        matches: dict[str, Match] = {}
        for index in (-row).argsort(kind="stable"):
            text = texts[int(index)].as_py()
            matches.setdefault(text, Match(topics[int(index)].as_py(), text, float(row[index])))
            if len(matches) == count:
                break
        found.append(list(matches.values()))
    return found


def _unit_vectors(table: pa.Table) -> Any:
    """Return the column `embedding` as a numpy array with one unit vector per row."""
    import numpy as np

    column = table.column("embedding").combine_chunks()
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
