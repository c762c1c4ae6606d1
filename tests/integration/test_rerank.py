"""`rerank` and `similarity`: the scores of pairs are those of sentence-transformers, however they are batched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from batchmill.errors import InvalidParams, InvalidRows
from support.text_models import FOLDER, MODEL, cache_over, definition_of, offline, run, tiny_classifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchmill_worker.models.operator_cache import OperatorCache

pytestmark = pytest.mark.models
PAIRS = [
    ("", ""),
    ("what is a list", "A list is a sequence that can change."),
    ("what is a list", "word " * 80),
    ("word " * 80, "short"),
    ("naïve", "数据处理"),
    ("what is a list", "Simmer the onions in butter."),
]
TABLE = pa.table({"query": [query for query, _ in PAIRS], "text": [text for _, text in PAIRS]})


@pytest.fixture(scope="module", autouse=True)
def _offline() -> Iterator[None]:
    with offline():
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder as transformers saves it, the same with other scores, and a classifier of two labels."""
    from sentence_transformers import CrossEncoder
    from torch.nn import Identity

    folder = tmp_path_factory.mktemp("models")
    tiny_classifier(folder / "scorer", ["LABEL_0"])
    CrossEncoder(str(folder / "scorer"), device="cpu", activation_fn=Identity()).save(str(folder / "raw"))
    tiny_classifier(folder / "two", ["no", "yes"])
    return folder


@pytest.fixture(scope="module")
def cache(models: Path) -> Iterator[OperatorCache]:
    with cache_over(models, FOLDER.parent) as cache:
        yield cache


@pytest.mark.parametrize("name", ["scorer", "raw"])
def test_scores_are_those_of_the_cross_encoders_own_predict(cache: OperatorCache, models: Path, name: str) -> None:
    from sentence_transformers import CrossEncoder

    expected = CrossEncoder(str(models / name), device="cpu").predict(PAIRS, batch_size=1, show_progress_bar=False)
    table = run(cache, "rerank", TABLE, batch_size=4, model=str(models / name)).table
    assert table["score"].to_pylist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert table.schema.field("score").type == pa.float32()
    assert max(expected) - min(expected) > 0.1  # else the test would show little
    assert (max(abs(expected)) > 1) == (name == "raw")


def test_a_pair_costs_the_tokens_that_are_left_of_it(models: Path) -> None:
    from batchmill.storage.locations import Locations
    from batchmill_worker.models.setup_context import SetupContext

    operator = definition_of("rerank").build({"model": str(models / "scorer")})
    with SetupContext(Locations([str(models)])).active():
        operator.setup("cpu")
    assert operator.costs(TABLE)[:3] == [3, 16, 64]


def test_a_cosine_is_that_of_the_two_vectors(cache: OperatorCache) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(FOLDER), device="cpu")
    queries = model.encode(TABLE["query"].to_pylist())
    texts = model.encode(TABLE["text"].to_pylist())
    table = run(cache, "similarity", TABLE, batch_size=4, model=MODEL).table
    assert table["score"].to_pylist() == pytest.approx((queries * texts).sum(1), abs=1e-4)
    assert table.column_names == ["query", "text", "score"]
    prompted = run(cache, "similarity", TABLE, model=MODEL, query_prompt="query: ", prompt="passage: ").table
    queries = model.encode(TABLE["query"].to_pylist(), prompt="query: ")
    texts = model.encode(TABLE["text"].to_pylist(), prompt="passage: ")
    assert prompted["score"].to_pylist() == pytest.approx((queries * texts).sum(1), abs=1e-4)


@pytest.mark.parametrize(("name", "model"), [("rerank", "scorer"), ("similarity", MODEL)])
def test_a_null_on_either_side_is_given_up_on(cache: OperatorCache, models: Path, name: str, model: str) -> None:
    table = pa.table({"query": ["a", None, "b", None], "text": ["x", "y", None, None]})
    result = run(cache, name, table, model=str(models / model) if model == "scorer" else model)
    assert result.table["query"].to_pylist() == ["a"]
    assert [(row.index, row.failure.message) for row in result.dead] == [
        (1, "column 'query' is null, expected text"),
        (2, "column 'text' is null, expected text"),
        (3, "column 'query' is null, expected text"),
    ]
    nothing = run(cache, name, table.slice(1), model=str(models / model) if model == "scorer" else model)
    assert len(nothing.dead) == 3


def test_a_pair_that_is_too_long_is_given_up_on_where_it_must_not_be_cut(cache: OperatorCache, models: Path) -> None:
    for name, model in (("rerank", str(models / "scorer")), ("similarity", MODEL)):
        result = run(cache, name, TABLE, model=model, max_tokens=20, truncate=False)
        assert [row.index for row in result.dead] == [2, 3]
        assert "tokens, the model takes 20" in result.dead[0].failure.message


def test_a_missing_column_is_told_with_its_parameter(cache: OperatorCache) -> None:
    table = TABLE.rename_columns(["question", "text"])
    with pytest.raises(InvalidRows, match=r"reads the column 'query', which .* Set the parameter 'query_column'"):
        run(cache, "similarity", table, model=MODEL)
    renamed = run(cache, "similarity", table, model=MODEL, query_column="question").table
    assert renamed.column_names == ["question", "text", "score"]


def test_a_model_of_the_wrong_kind_is_refused_with_what_to_do(cache: OperatorCache, models: Path) -> None:
    with pytest.raises(InvalidParams, match=r"'rerank' expects a sequence classifier, got .*Use it with 'embed'"):
        run(cache, "rerank", TABLE, model=MODEL)
    with pytest.raises(InvalidParams, match=r"with one score, got .*which has 2 labels \(no, yes\)\. Use 'classify'"):
        run(cache, "rerank", TABLE, model=str(models / "two"))
    for name in ("scorer", "raw"):
        with pytest.raises(InvalidParams, match="'similarity' expects an embedding model, got"):
            run(cache, "similarity", TABLE, model=str(models / name))
