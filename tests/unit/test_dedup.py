"""`signature` and `dedup`: planted copies, and a comparison of all pairs, row by row."""

from __future__ import annotations

import itertools
import json
import random
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from batchmill.errors import InvalidRows
from batchmill_worker.vectors import products, similar_vectors
from batchmill_worker.vectors.similar_signatures import band_size, kept_of_signatures
from batchmill_worker.vectors.similar_vectors import kept_of_vectors
from support.text_models import definition_of

if TYPE_CHECKING:
    from batchmill.operators.contract import Expansion, PartialResult

    Rows = np.ndarray[Any, np.dtype[np.float32]]

TEXTS = [
    paragraph
    for topic in sorted(topics)
    for paragraph in topics[topic].split("\n\n")
    if len(paragraph.split()) > 25 and not paragraph.startswith(" ")
]


def signatures(texts: list[str | None], **params: Any) -> PartialResult:
    operator: Any = definition_of("signature").build(params)
    operator.setup("cpu")
    result: PartialResult = operator.infer(pa.table({"text": pa.array(texts, pa.string())}))
    return result


def dedup(table: pa.Table, **params: Any) -> Expansion:
    operator: Any = definition_of("dedup").build(params)
    operator.setup("cpu")
    result: Expansion = operator.infer(table)
    return result


def matrix(texts: list[str]) -> np.ndarray[Any, np.dtype[np.uint32]]:
    column = signatures(list(texts)).results["signature"]
    return np.frombuffer(b"".join(column.to_pylist()), "<u4").reshape(len(texts), -1)


def by_hand(likeness: np.ndarray[Any, Any], threshold: float) -> list[int]:
    """Each row with the kept row before it that it is most similar to, one row after the other."""
    found: list[int] = []
    for row in range(len(likeness)):
        kept = [n for n in range(row) if found[n] < 0 and likeness[row, n] >= threshold]
        found.append(max(kept, key=lambda n: (likeness[row, n], -n)) if kept else -1)
    return found


def test_planted_copies_of_texts_are_found_and_other_texts_are_not() -> None:
    draw = random.Random(1)
    unique = list(dict.fromkeys(TEXTS))[:400]
    own = by_hand(_jaccard(unique), 0.45)
    unique = [text for text, of in zip(unique, own, strict=True) if of < 0]
    copies = [" ".join(word for word in text.split() if draw.random() > 0.03) for text in unique]
    ids = [f"o{n}" for n in range(len(unique))] + [f"c{n}" for n in range(len(copies))]
    made = signatures([*unique, *copies]).results.append_column("id", pa.array(ids))
    result = dedup(made, column="signature", threshold=0.7)
    rows = result.results.to_pylist()
    assert all(row["kept"] and row["duplicate_of"] is None for row in rows[: len(unique)])
    found = [row["duplicate_of"] == f"o{n}" for n, row in enumerate(rows[len(unique) :])]
    assert sum(found) >= 0.95 * len(copies)
    assert {row["duplicate_of"] for row in rows} <= {None, *ids[: len(unique)]}


def _jaccard(texts: list[str]) -> np.ndarray[Any, Any]:
    sets = []
    for text in texts:
        words = "".join(sign if sign.isalnum() or sign == "_" else " " for sign in text.lower()).split()
        sets.append({(one, other) for one, other in itertools.pairwise(words)})
    return np.array([[len(one & other) / max(len(one | other), 1) for other in sets] for one in sets])


def test_signatures_estimate_what_texts_have_in_common() -> None:
    texts = list(dict.fromkeys(TEXTS))[:40]
    texts += [f"{one} {other}" for one, other in zip(texts[:20], texts[20:], strict=True)]
    found = matrix(texts)
    estimated = (found[:, None] == found[None]).mean(axis=2)
    assert np.abs(estimated - _jaccard(texts)).max() < 0.2
    assert np.abs(estimated - _jaccard(texts)).mean() < 0.03


def test_case_spaces_and_punctuation_do_not_count_and_a_signature_depends_on_its_text_alone() -> None:
    one, other, third = matrix(["The quick, brown FOX!", "the  quick brown\nfox", "the quick brown dog"])
    assert (one == other).all()
    assert (one != third).any()
    assert (matrix(["the quick brown fox"])[0] == one).all()
    assert (matrix([""])[0] == matrix(["?!"])[0]).all()


def test_characters_are_compared_where_there_are_no_spaces() -> None:
    texts: list[str | None] = [
        "数据处理系统的设计与实现方法研究",
        "数据处理系统的设计与实现方法研究。",
        "今天天气很好我们去公园散步吧",
    ]
    made = signatures(texts, by="characters", size=3).results.append_column("id", pa.array([0, 1, 2]))
    assert dedup(made, column="signature").results["duplicate_of"].to_pylist() == [None, 0, None]


@pytest.mark.parametrize("threshold", [0.5, 0.8, 1.0])
def test_rows_with_a_band_in_common_are_compared_in_order(threshold: float) -> None:
    draw = np.random.default_rng(5)
    base = draw.integers(0, 2**32, (60, 128), np.uint32)
    rows = base[draw.integers(0, 60, 500)]
    rows = np.where(draw.random(rows.shape) < draw.uniform(0, 0.5, (500, 1)), draw.integers(0, 2**32, rows.shape), rows)
    rows = rows.astype(np.uint32)
    likeness = (rows[:, None] == rows[None]).mean(axis=2)
    found = kept_of_signatures(rows, threshold)
    expected = by_hand(likeness, threshold)
    assert (found == expected).mean() > 0.97
    removed = np.flatnonzero(found >= 0)
    assert (found[found[removed]] == -1).all()
    assert (likeness[removed, found[removed]] >= threshold).all()
    assert (found == kept_of_signatures(rows.copy(), threshold)).all()


def test_bands_find_a_pair_at_the_threshold() -> None:
    for threshold in (0.3, 0.5, 0.7, 0.9, 1.0):
        size = band_size(128, threshold)
        assert 1 - (1 - threshold**size) ** (128 // size) >= 0.98


def points(count: int, dimension: int = 96, seed: int = 0) -> Rows:
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((30, dimension))
    spread = draw.uniform(0.05, 0.6, (count, 1))
    found = centres[draw.integers(0, 30, count)] + spread * draw.standard_normal((count, dimension))
    return (found * draw.uniform(0.1, 9, (count, 1))).astype(np.float32)


@pytest.mark.parametrize("threshold", [0.8, 0.95, 1.0])
def test_vectors_are_compared_with_all_that_are_kept_before_them(
    threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similar_vectors, "TILE_ROWS", 32)
    monkeypatch.setattr(similar_vectors, "TILE_COLUMNS", 100)
    rows = points(400)
    rows[200:250] = rows[20:70] * 3
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    expected = by_hand(np.round(unit @ unit.T, 7), threshold)
    for has_half in (True, False):
        monkeypatch.setattr(products, "has_fast_half", lambda *_, has_half=has_half: has_half)
        found = kept_of_vectors(rows, threshold, "cpu")
        assert [of >= 0 for of in found] == [of >= 0 for of in expected]
        likeness = (unit * unit[found]).sum(1)
        best = np.array([likeness[n] if of < 0 else unit[n] @ unit[of] for n, of in enumerate(expected)])
        np.testing.assert_allclose(likeness[found >= 0], best[found >= 0], atol=1e-6)
        assert (found[found[found >= 0]] == -1).all()
    assert 0 < sum(of >= 0 for of in expected) < 400


def test_of_equal_vectors_the_first_is_kept() -> None:
    found = kept_of_vectors(np.tile(points(3), (400, 1)), 0.999, "cpu")
    assert found.tolist() == [-1, -1, -1, *([0, 1, 2] * 399)]


@pytest.mark.parametrize(("only", "ids"), [("all", [0, 1, 3, 4]), ("kept", [0, 3]), ("removed", [1, 4])])
def test_kept_or_removed_rows_are_chosen_and_rows_without_a_direction_fail(only: str, ids: list[int]) -> None:
    vectors = pa.array([[1.0, 0.0], [0.99, 0.01], [0.0, 0.0], [0.0, 1.0], [0.1, 1.0]])
    table = pa.table({"key": ["a", "b", "c", "d", "e"], "embedding": vectors})
    result = dedup(table, id="key", only=only)
    assert list(result.errors) == [2]
    assert [n for n, count in enumerate(result.counts) for _ in range(count)] == ids
    of = {0: None, 1: "a", 3: None, 4: "d"}
    assert result.results["duplicate_of"].to_pylist() == [of[n] for n in ids]
    assert result.results["kept"].to_pylist() == [of[n] is None for n in ids]


def test_no_rows_and_no_texts() -> None:
    made = signatures([None])
    assert list(made.errors) == [0]
    empty = pa.table({"id": pa.array([], pa.string()), "signature": made.results["signature"]})
    assert dedup(empty, column="signature").results.num_rows == 0
    nothing = pa.table({"id": ["a"], "embedding": pa.array([None], pa.list_(pa.float32()))})
    assert list(dedup(nothing).errors) == [0]


def test_a_column_of_texts_is_refused_with_what_to_do() -> None:
    with pytest.raises(InvalidRows, match="expected vectors or signatures") as caught:
        dedup(pa.table({"id": ["a"], "text": ["b"]}), column="text")
    assert "signature" in json.dumps(caught.value.hint)
