"""`embed_spans` on real weights: the vectors are means of the states that the model itself gives."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from batchmill.errors import InvalidParams, InvalidRows
from batchmill_worker.text.windows import tokens_of, windows_of
from support.text_models import FOLDER, MODEL, cache_over, offline, run

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchmill_worker.engine.shard_result import ShardResult
    from batchmill_worker.models.operator_cache import OperatorCache

TEXT = "Berlin is the capital of Germany. It has four million people, and the city is on the river Spree. 数据处理"
SPANS = [(0, 33), (34, 61), (34, len(TEXT))]


@pytest.fixture(scope="module", autouse=True)
def _offline() -> Iterator[None]:
    with offline():
        yield


@pytest.fixture(scope="module")
def cache() -> Iterator[OperatorCache]:
    with cache_over(FOLDER.parent) as cache:
        yield cache


@pytest.fixture(scope="module")
def reference() -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(FOLDER), device="cpu")


def embed(cache: OperatorCache, rows: list[dict[str, Any]], **params: Any) -> ShardResult:
    return run(cache, "embed_spans", pa.Table.from_pylist(rows), **{"model": MODEL, **params})


def spans_of(pairs: list[tuple[int, int]]) -> list[dict[str, int]]:
    return [{"start": start, "end": end} for start, end in pairs]


def test_a_vector_is_the_mean_of_the_tokens_of_its_span(cache: OperatorCache, reference: Any) -> None:
    rows = embed(cache, [{"text": TEXT, "spans": spans_of(SPANS), "doc": 7}], normalize=False).table
    states = reference.encode(TEXT, output_value="token_embeddings").numpy()
    offsets = reference.tokenizer(TEXT, return_offsets_mapping=True)["offset_mapping"]
    for row, (start, end) in zip(rows.to_pylist(), SPANS, strict=True):
        own = [place for place, (first, last) in enumerate(offsets) if first < end and last > start and last > first]
        expected = states[own].mean(0)
        expected /= np.linalg.norm(expected)  # the model's own last module
        assert row["embedding"] == pytest.approx(expected.tolist(), abs=1e-5)
        assert (row["start"], row["end"], row["text"]) == (start, end, TEXT[start:end])
    assert rows["span"].to_pylist() == [0, 1, 2]
    assert rows["doc"].to_pylist() == [7, 7, 7]


def test_the_vector_of_a_text_without_spans_is_that_of_embed(cache: OperatorCache, reference: Any) -> None:
    texts = [TEXT, "", "word " * 600, "short"]
    rows = embed(cache, [{"text": text, "spans": None} for text in texts]).table
    expected = reference.encode(texts, normalize_embeddings=True)
    assert np.stack(rows["embedding"].to_numpy()) == pytest.approx(expected, abs=1e-5)


def test_what_is_around_a_span_changes_its_vector(cache: OperatorCache) -> None:
    alone = TEXT[34:61]
    (here,) = embed(cache, [{"text": TEXT, "spans": spans_of([(34, 61)])}]).table["embedding"].to_pylist()
    (there,) = embed(cache, [{"text": alone, "spans": spans_of([(0, len(alone))])}]).table["embedding"].to_pylist()
    assert float(np.dot(here, there)) < 0.95


def test_a_long_text_is_read_in_windows_and_results_do_not_depend_on_the_batch(cache: OperatorCache) -> None:
    text = " ".join(f"Sentence {n} is about the number {n * 7}." for n in range(200))
    spans, start = [], 0
    for part in text.split(". "):
        spans.append([start, start + len(part)])
        start += len(part) + 2
    rows = [{"text": text, "spans": spans}, {"text": "short", "spans": [[0, 5]]}, {"text": text, "spans": spans[::-1]}]
    together = embed(cache, rows).table
    assert together.num_rows == 401
    vectors = np.stack(together["embedding"].to_numpy())
    assert vectors[:200] == pytest.approx(vectors[:200:-1], abs=1e-4)
    alone = np.stack(embed(cache, rows[1:2]).table["embedding"].to_numpy())
    assert vectors[200:201] == pytest.approx(alone, abs=1e-4)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_rows_with_spans_that_cannot_be_fail_alone(cache: OperatorCache) -> None:
    rows = [{"text": "good text", "spans": [pair]} for pair in ([0, 4], [5, 99], [4, 5], [3, 3], [-1, 3])]
    rows += [{"text": None, "spans": [[0, 1]]}, {"text": "good text", "spans": []}]
    result = embed(cache, rows)
    assert result.table["text"].to_pylist() == ["good"]
    messages = [row.failure.message for row in result.dead]
    assert len(messages) == 5
    assert "is empty or outside of the 9 characters" in messages[0]
    assert "[4, 5] has no token" in messages[1]


def test_a_column_that_has_no_spans_is_refused(cache: OperatorCache) -> None:
    with pytest.raises(InvalidRows, match="expected lists of a start and an end"):
        embed(cache, [{"text": "a", "spans": "0-1"}])
    with pytest.raises(InvalidRows, match="which the rows do not have"):
        embed(cache, [{"text": "a"}])


def test_a_model_that_pools_in_another_way_is_refused(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling

    model = SentenceTransformer(str(FOLDER), device="cpu")
    model[1] = Pooling(model.get_embedding_dimension(), "cls")
    model.save(str(tmp_path / "cls"))
    with cache_over(tmp_path) as other, pytest.raises(InvalidParams, match="pools by the mean"):
        embed(other, [{"text": "a", "spans": [[0, 1]]}], model=str(tmp_path / "cls"))


def test_each_span_is_in_one_window_as_far_as_it_fits() -> None:
    chance = random.Random(5)
    for _ in range(500):
        tokens, size = chance.randint(1, 200), chance.randint(1, 60)
        spans = []
        for _ in range(chance.randint(1, 20)):
            start = chance.randrange(tokens)
            spans.append((start, chance.randint(start + 1, tokens)))
        found: dict[int, tuple[int, int]] = {}
        for window in windows_of(spans, tokens, size):
            begin, end = window.tokens
            assert 0 <= begin < end <= tokens
            assert end - begin <= size
            for number, (first, last) in window.spans.items():
                assert 0 <= first < last <= end - begin
                assert number not in found
                found[number] = (begin + first, begin + last)
        assert found.keys() == set(range(len(spans)))
        for number, (first, last) in enumerate(spans):
            assert found[number][0] == first
            assert found[number][1] == min(last, first + size) or last - first > size


def test_tokens_of_a_span_are_those_with_a_character_in_it() -> None:
    offsets = [(0, 3), (4, 6), (6, 9), (10, 12)]
    assert tokens_of([(0, 3), (2, 5), (3, 4), (6, 12), (9, 10)], offsets) == [(0, 1), (0, 2), (1, 1), (2, 4), (3, 3)]
