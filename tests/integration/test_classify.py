"""`classify`: the scores are those of the model itself, and labels in words are told apart by a real model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from batchmill.errors import InvalidParams
from support.text_models import FOLDER, MODEL, cache_over, offline, run, tiny_classifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchmill_worker.models.operator_cache import OperatorCache

pytestmark = pytest.mark.models
TEXTS = ["", "The match was won in the last minute.", "Shares fell.", "naïve café 数据处理", "word " * 100]
LABELS = ["sports", "money", "food"]


@pytest.fixture(scope="module", autouse=True)
def _offline() -> Iterator[None]:
    with offline():
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classifiers of one label a text, of several, of one label at all, and of none."""
    folder = tmp_path_factory.mktemp("models")
    tiny_classifier(folder / "single", LABELS)
    tiny_classifier(folder / "multi", LABELS, "multi_label_classification")
    tiny_classifier(folder / "spam", ["spam"])
    tiny_classifier(folder / "number", ["stars"], "regression")
    return folder


@pytest.fixture(scope="module")
def cache(models: Path) -> Iterator[OperatorCache]:
    with cache_over(models, FOLDER.parent) as cache:
        yield cache


def logits(folder: Path) -> np.ndarray[Any, Any]:
    """What transformers itself computes, a text at a time."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    with torch.inference_mode():
        one_by_one = [model(**tokenizer(text, truncation=True, return_tensors="pt")).logits[0] for text in TEXTS]
    return np.asarray(torch.stack(one_by_one).double().numpy())


def softmax(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def sigmoid(scores: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(1 / (1 + np.exp(-scores)))


def classify(cache: OperatorCache, texts: list[str | None], **params: Any) -> pa.Table:
    return run(cache, "classify", pa.table({"text": texts}), batch_size=3, **params).table


@pytest.mark.parametrize(("name", "activation"), [("single", softmax), ("multi", sigmoid), ("spam", sigmoid)])
def test_label_and_score_are_the_best_of_the_models_own(
    cache: OperatorCache, models: Path, name: str, activation: Any
) -> None:
    expected = activation(logits(models / name))
    table = classify(cache, list(TEXTS), model=str(models / name))
    labels = LABELS if name != "spam" else ["spam"]
    assert table["label"].to_pylist() == [labels[best] for best in expected.argmax(1)]
    assert table["score"].to_pylist() == pytest.approx(expected.max(1), abs=1e-5)
    assert table.schema.field("score").type == pa.float32()
    assert table.column_names == ["text", "label", "score"]
    assert name == "spam" or len(set(table["label"].to_pylist())) > 1  # else the test would show little


def test_the_best_so_many_labels_come_in_order(cache: OperatorCache, models: Path) -> None:
    expected = softmax(logits(models / "single"))
    table = classify(cache, list(TEXTS), model=str(models / "single"), top_k=2)
    for row, scores in zip(table.to_pylist(), expected, strict=True):
        order = np.argsort(-scores)[:2]
        assert [entry["label"] for entry in row["scores"]] == [LABELS[place] for place in order]
        assert [entry["score"] for entry in row["scores"]] == pytest.approx(scores[order], abs=1e-5)
        assert (row["label"], row["score"]) == (row["scores"][0]["label"], row["scores"][0]["score"])
    all_of_them = classify(cache, list(TEXTS), model=str(models / "single"), top_k=99)
    assert {len(scores) for scores in all_of_them["scores"].to_pylist()} == {3}


def test_labels_in_words_are_told_apart_by_an_embedding_model(cache: OperatorCache) -> None:
    from sentence_transformers import SentenceTransformer

    texts: list[str | None] = [
        "The goalkeeper saved a penalty in the final.",
        "The central bank raised interest rates.",
        "Simmer the onions in butter, then add the rice.",
    ]
    table = classify(cache, texts, model=MODEL, labels=LABELS, top_k=3)
    assert table["label"].to_pylist() == LABELS
    reference = SentenceTransformer(str(FOLDER), device="cpu")
    vectors = reference.encode([text or "" for text in texts])
    named = reference.encode([f"This text is about {label}." for label in LABELS])
    expected = softmax(vectors @ named.T / 0.05)
    assert table["score"].to_pylist() == pytest.approx(np.diag(expected), abs=1e-4)
    sharper = classify(cache, texts, model=MODEL, labels=LABELS, temperature=0.01)
    assert all(sharp > soft for sharp, soft in zip(sharper["score"].to_pylist(), np.diag(expected), strict=True))
    other = classify(cache, texts, model=MODEL, labels=LABELS, template="{}")
    assert other["label"].to_pylist() == LABELS
    assert other["score"].to_pylist() != table["score"].to_pylist()


def test_a_null_text_is_given_up_on(cache: OperatorCache, models: Path) -> None:
    table = pa.table({"id": [1, 2], "text": ["one", None]})
    result = run(cache, "classify", table, model=str(models / "single"))
    assert result.table["id"].to_pylist() == [1]
    assert [row.failure.message for row in result.dead] == ["column 'text' is null, expected text"]
    nothing = run(cache, "classify", table.slice(1), model=str(models / "single"))
    assert nothing.table.num_rows == 0


def test_a_model_and_labels_that_do_not_go_together_are_refused_with_what_to_do(
    cache: OperatorCache, models: Path
) -> None:
    with pytest.raises(InvalidParams, match=r"expects a sequence classifier, got .*Name the labels to choose from"):
        classify(cache, ["a"], model=MODEL)
    with pytest.raises(InvalidParams, match=r"expects an embedding model, got .*Leave out 'labels'"):
        classify(cache, ["a"], model=str(models / "single"), labels=LABELS)
    with pytest.raises(InvalidParams, match=r"whose output is a number \(regression\)"):
        classify(cache, ["a"], model=str(models / "number"))
    with pytest.raises(InvalidParams, match="'labels' names 'a' more than once"):
        classify(cache, ["a"], model=MODEL, labels=["a", "b", "a"])
    with pytest.raises(InvalidParams, match="parameter 'labels'"):
        classify(cache, ["a"], model=MODEL, labels=["one"])
    with pytest.raises(InvalidParams, match="parameter 'template'"):
        classify(cache, ["a"], model=MODEL, labels=LABELS, template="no place for it")
