"""Reading texts for a model: each is cut into tokens once, and padded as the model's own tokeniser pads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from batchmill.operators.contract import RowError
from batchmill_worker.runtime.torch_runtime import TorchRuntime
from batchmill_worker.text import tokens
from batchmill_worker.text.tokens import TokenReader
from support.text_models import FOLDER

if TYPE_CHECKING:
    from collections.abc import Sequence

TEXTS = ["one two", "", "a longer text than the others", "one two", "naïve 数据"]


class CountingTokenizer:
    """A real tokeniser that notes what it was given."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.seen: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, texts: Sequence[str], *args: Any, **options: Any) -> Any:
        self.seen += texts
        return self._tokenizer(texts, *args, **options)


@pytest.fixture
def tokenizer() -> CountingTokenizer:
    from transformers import AutoTokenizer

    return CountingTokenizer(AutoTokenizer.from_pretrained(str(FOLDER)))


def reader(tokenizer: Any, **options: Any) -> TokenReader:
    return TokenReader(tokenizer, TorchRuntime("cpu"), **options)


@pytest.mark.parametrize("side", ["left", "right"])
def test_features_are_those_of_the_tokeniser_itself(tokenizer: CountingTokenizer, side: str) -> None:
    tokenizer._tokenizer.padding_side = side
    expected = tokenizer._tokenizer(TEXTS, padding=True, truncation=True, max_length=6, return_tensors="pt")
    features = reader(tokenizer, limit=6).features(TEXTS)
    assert features.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(features[name], values)
        assert features[name].dtype == values.dtype


def test_pairs_are_separated_and_cut_as_the_tokeniser_does(tokenizer: CountingTokenizer) -> None:
    firsts, seconds = TEXTS, [text * 3 for text in TEXTS]
    expected = tokenizer._tokenizer(
        firsts, seconds, padding=True, truncation="longest_first", max_length=9, return_tensors="pt"
    )
    features = reader(tokenizer, limit=9).features(list(zip(firsts, seconds, strict=True)))
    for name, values in expected.items():
        assert torch.equal(features[name], values)


def test_a_text_is_cut_into_tokens_once_though_its_cost_is_asked_for_first(tokenizer: CountingTokenizer) -> None:
    read = reader(tokenizer, limit=256)
    costs = read.costs([*TEXTS, RowError("null")])
    features = [read.features(TEXTS[:2]), read.features(TEXTS[2:])]
    assert [int(row.sum()) for part in features for row in part["attention_mask"]] == costs[:-1]
    assert costs[-1] == 1
    assert sorted(tokenizer.seen) == sorted([*set(TEXTS), "one two"])  # a double in another batch is cut again


def test_cached_tokens_are_dropped_when_they_are_taken_or_too_many(
    tokenizer: CountingTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = reader(tokenizer)
    read.costs(TEXTS)
    assert read._cache._by_text.weight > 0
    read.features(TEXTS)
    assert read._cache._by_text.weight == 0
    monkeypatch.setattr(tokens, "MAX_CACHED_BYTES", 1000)
    read = reader(tokenizer)
    assert len(read.costs([f"text {number}" for number in range(20)])) == 20
    assert len(read._cache._by_text) == 2
    assert read.costs(["text 0"]) == [4]


def test_a_text_over_the_limit_costs_nothing_where_its_row_fails(tokenizer: CountingTokenizer) -> None:
    read = reader(tokenizer, limit=4, truncate=False)
    texts: list[str | tuple[str, str] | RowError] = ["one two", "one two three", RowError("null")]
    assert read.costs(texts) == [4, 1, 1]
    admitted, errors = read.admit(texts)
    assert admitted == ["one two"]
    assert errors[1].message == "the text has 5 tokens, the model takes 4"
    assert errors[2].message == "null"


LONG_TEXTS = [
    "many words of a text " * 1_000,
    "word " + "unbroken" * 1_000,
    " " * 8_000 + "at the end",
    "数据" * 3_000,
    "naïve e\u0301 \u200b\t" * 1_000,
    "a, b; " * 2_000,
    "",
    "short",
]


@pytest.mark.parametrize("prompt", ["", "query: "])
def test_of_a_long_text_what_the_model_gets_is_the_same_as_of_all_of_it(
    tokenizer: CountingTokenizer, prompt: str
) -> None:
    expected = tokenizer._tokenizer(
        [f"{prompt}{text}" for text in LONG_TEXTS], padding=True, truncation=True, max_length=32, return_tensors="pt"
    )
    features = reader(tokenizer, limit=32, prompt=prompt).features(LONG_TEXTS)
    assert torch.equal(features["input_ids"], expected["input_ids"])


def test_of_pairs_with_a_long_text_too(tokenizer: CountingTokenizer) -> None:
    pairs = [("short", text) for text in LONG_TEXTS] + [(text, "short") for text in LONG_TEXTS]
    pairs += [("one " * 100, "two, " * 90), ("two, " * 90, "one " * 100)]
    pairs += [("one " * 500, "two, " * 400), ("two, " * 400, "one " * 500), ("one " * 500, "two " * 500)]
    pairs += [("数据" * 100, "long " * 300), ("long " * 300, "数据" * 100)]
    firsts, seconds = (list(side) for side in zip(*pairs, strict=True))
    expected = tokenizer._tokenizer(
        firsts, seconds, padding=True, truncation="longest_first", max_length=31, return_tensors="pt"
    )
    features = reader(tokenizer, limit=31).features(pairs)
    assert torch.equal(features["input_ids"], expected["input_ids"])


def test_of_a_long_text_a_small_part_is_tokenised(tokenizer: CountingTokenizer) -> None:
    read = reader(tokenizer, limit=32)
    assert read.costs([LONG_TEXTS[0]]) == [32]
    assert max(map(len, tokenizer.seen)) <= 32 * tokens.CHARACTERS_PER_TOKEN * tokens.GROWTH


def test_of_two_long_texts_small_parts_are_tokenised(tokenizer: CountingTokenizer) -> None:
    read = reader(tokenizer, limit=32)
    assert read.costs([("one " * 400_000, "two, " * 300_000)]) == [32]
    assert max(map(len, tokenizer.seen)) <= 32 * tokens.CHARACTERS_PER_TOKEN * tokens.GROWTH


def test_a_long_text_that_is_not_to_be_cut_is_an_error_without_reading_all_of_it(tokenizer: CountingTokenizer) -> None:
    _, errors = reader(tokenizer, limit=32, truncate=False).admit([LONG_TEXTS[0], "short"])
    assert list(errors) == [0]
    assert errors[0].message.startswith("the text has more than ")
    assert max(map(len, tokenizer.seen)) <= 32 * tokens.CHARACTERS_PER_TOKEN * tokens.GROWTH
