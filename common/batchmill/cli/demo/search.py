"""Similarity search over the vectors that the demo has made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Answer:
    """A paragraph that is near a question; `score` is the cosine of the angle between their vectors."""

    topic: str
    text: str
    score: float


def read_vectors(folder: Path) -> pa.Table:
    """The table in a folder of Parquet files, the way any tool that knows Parquet reads it."""
    import pyarrow.dataset as ds

    return ds.dataset(str(folder), format="parquet").to_table()


def nearest(questions: pa.Table, paragraphs: pa.Table, count: int) -> list[list[Answer]]:
    """For each question the `count` paragraphs nearest to it, best first; one that recurs is given once.

    Both tables have a column `embedding`; the paragraphs have `topic` and `text` besides.
    """
    scores = _unit_vectors(questions) @ _unit_vectors(paragraphs).T
    topics, texts = paragraphs.column("topic"), paragraphs.column("text")
    found = []
    for row in scores:
        answers: dict[str, Answer] = {}
        for place in (-row).argsort(kind="stable"):
            text = texts[int(place)].as_py()
            answers.setdefault(text, Answer(topics[int(place)].as_py(), text, float(row[place])))
            if len(answers) == count:
                break
        found.append(list(answers.values()))
    return found


def _unit_vectors(table: pa.Table) -> Any:
    """The column `embedding` as a numpy array, a row a vector of length 1."""
    import numpy as np

    column = table.column("embedding").combine_chunks()
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
