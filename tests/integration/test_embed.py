"""`embed` on real weights: the vectors are those of sentence-transformers, however the rows are batched."""

from __future__ import annotations

from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from batchmill.errors import InvalidParams, InvalidRows, OperatorFailed
from support.text_models import FOLDER, MODEL, cache_over, definition_of, offline, run, tiny_classifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sentence_transformers import SentenceTransformer

    from batchmill_worker.models.operator_cache import OperatorCache

pytestmark = pytest.mark.models


@pytest.fixture(scope="module", autouse=True)
def _offline() -> Iterator[None]:
    with offline():
        yield


@pytest.fixture(scope="module")
def cache() -> Iterator[OperatorCache]:
    with cache_over(FOLDER.parent) as cache:
        yield cache


@pytest.fixture(scope="module")
def reference() -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(FOLDER), device="cpu")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    """Paragraphs of Python's reference of all lengths, with an empty one, doubles, and other scripts."""
    paragraphs = [part for topic in sorted(topics) for part in topics[topic].split("\n\n") if part.strip()]
    return ["", *paragraphs[:40], paragraphs[0], "naïve café", "数据处理", "🙂" * 20, "word " * 600]


def embed(cache: OperatorCache, table: pa.Table, **params: Any) -> pa.Table:
    return run(cache, "embed", table, **{"model": MODEL, **params}).table


def vectors(table: pa.Table) -> np.ndarray[Any, Any]:
    return np.stack(table["embedding"].to_numpy())


def cosines(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = (one * other).sum(1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))
    return found


def encode(model: SentenceTransformer, texts: list[str], **options: Any) -> np.ndarray[Any, Any]:
    return np.asarray(model.encode(texts, show_progress_bar=False, **options))


def test_vectors_equal_those_of_sentence_transformers_in_input_order(
    cache: OperatorCache, reference: SentenceTransformer, texts: list[str]
) -> None:
    table = embed(cache, pa.table({"id": range(len(texts)), "text": texts}), batch_size=8)
    assert table["id"].to_pylist() == list(range(len(texts)))
    assert table["text"].to_pylist() == texts
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 384)
    assert cosines(vectors(table), encode(reference, texts)).min() > 0.9999
    assert np.linalg.norm(vectors(table), axis=1) == pytest.approx(1, abs=1e-5)


def test_a_row_alone_gets_the_vector_it_gets_in_a_batch(cache: OperatorCache, texts: list[str]) -> None:
    some = texts[:12]
    together = vectors(embed(cache, pa.table({"text": some})))
    alone = np.concatenate([vectors(embed(cache, pa.table({"text": [text]}))) for text in some])
    assert cosines(together, alone).min() > 0.9999


def test_more_rows_than_one_batch_stay_in_order(cache: OperatorCache, reference: SentenceTransformer) -> None:
    texts = [f"number {n}" for n in range(150)]
    table = embed(cache, pa.table({"text": texts}))
    assert cosines(vectors(table), encode(reference, texts)).min() > 0.9999


def test_a_prompt_goes_before_every_text(
    cache: OperatorCache, reference: SentenceTransformer, texts: list[str]
) -> None:
    table = embed(cache, pa.table({"text": texts[:5]}), prompt="query: ")
    assert cosines(vectors(table), encode(reference, texts[:5], prompt="query: ")).min() > 0.9999
    assert cosines(vectors(table), encode(reference, texts[:5])).max() < 0.999


def test_vectors_are_left_at_their_length_on_demand(tmp_path: Path, reference: SentenceTransformer) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    bare = [module for module in reference if not isinstance(module, Normalize)]
    SentenceTransformer(modules=bare, device="cpu", truncate_dim=100).save_pretrained(str(tmp_path / "bare"))
    expected = encode(SentenceTransformer(str(tmp_path / "bare"), device="cpu"), ["a text"], normalize_embeddings=False)
    table = pa.table({"text": ["a text"]})
    with cache_over(tmp_path) as cache:
        raw = vectors(embed(cache, table, model=str(tmp_path / "bare"), normalize=False))
        scaled = vectors(embed(cache, table, model=str(tmp_path / "bare")))
    assert raw == pytest.approx(expected, abs=1e-4)
    assert np.linalg.norm(raw) != pytest.approx(1, abs=1e-2)
    assert np.linalg.norm(scaled) == pytest.approx(1, abs=1e-5)
    assert cosines(raw, scaled).min() > 0.9999


def test_a_folder_below_a_root_gives_the_same_as_the_package(cache: OperatorCache) -> None:
    table = pa.table({"text": ["one", "two"]})
    assert embed(cache, table, model=str(FOLDER)).equals(embed(cache, table))


@pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_text_of_every_arrow_type_is_text(cache: OperatorCache, kind: pa.DataType) -> None:
    table = pa.table({"body": pa.array(["one", "two"]).cast(kind)})
    plain = pa.table({"body": ["one", "two"]})
    assert embed(cache, table, column="body")["embedding"].equals(embed(cache, plain, column="body")["embedding"])


def test_a_null_text_is_given_up_on_and_named_and_the_others_are_kept(cache: OperatorCache) -> None:
    table = pa.table({"id": [1, 2, 3], "text": ["one", None, "three"]})
    result = run(cache, "embed", table, model=MODEL)
    nothing = run(cache, "embed", pa.table({"text": pa.nulls(2)}), model=MODEL)
    assert result.table["id"].to_pylist() == [1, 3]
    (dead,) = result.dead
    assert (dead.index, dead.failure.error_type, dead.row) == (1, "RowError", {"id": 2, "text": None})
    assert dead.failure.message == "column 'text' is null, expected text"
    assert [row.index for row in nothing.dead] == [0, 1]


def test_a_column_that_is_no_text_or_missing_ends_the_job(cache: OperatorCache) -> None:
    with pytest.raises(InvalidRows, match="expects text in column 'text', got int64"):
        embed(cache, pa.table({"text": [1, 2]}))
    with pytest.raises(
        InvalidRows, match=r"reads the column 'text', which .* Did you mean 'texts'\? Set the parameter"
    ):
        embed(cache, pa.table({"texts": ["a"]}))


def test_a_model_that_is_nowhere_is_told_with_where_it_was_looked_for(cache: OperatorCache, tmp_path: Path) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    table = pa.table({"text": ["a"]})
    with pytest.raises(InvalidParams, match="the package no_such_weights is not installed"):
        embed(cache, table, model="package:no_such_weights")
    with pytest.raises(InvalidParams, match="outside the folders"):
        embed(cache, table, model=str(tmp_path))
    with pytest.raises(
        OperatorFailed, match="could not load the model 'no-such/model' from the Hugging Face hub"
    ) as hub:
        embed(cache, table, model="no-such/model")
    assert str(HF_HUB_CACHE) in hub.value.message
    assert "without a network use a folder" in hub.value.hint


def test_a_folder_with_broken_weights_is_named(tmp_path: Path) -> None:
    for file in FOLDER.rglob("*"):
        if file.is_file() and file.name != "model.safetensors":
            copy = tmp_path / file.relative_to(FOLDER)
            copy.parent.mkdir(exist_ok=True)
            copy.write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with cache_over(tmp_path) as cache, pytest.raises(OperatorFailed, match=f"could not load .* from {tmp_path}"):
        embed(cache, pa.table({"text": ["a"]}), model=str(tmp_path))


def test_nothing_is_printed_while_a_model_loads_and_runs(capfd: pytest.CaptureFixture[str]) -> None:
    with cache_over() as cache:
        embed(cache, pa.table({"text": ["a"]}))
    assert capfd.readouterr() == ("", "")


def test_a_prompt_of_the_model_is_taken_by_its_name(tmp_path: Path, reference: SentenceTransformer) -> None:
    from sentence_transformers import SentenceTransformer

    prompts = {"query": "query: ", "document": ""}
    SentenceTransformer(str(FOLDER), device="cpu", prompts=prompts, default_prompt_name="query").save(str(tmp_path))
    table = pa.table({"text": ["a text"]})
    with cache_over(tmp_path) as cache:
        by_default = vectors(embed(cache, table, model=str(tmp_path)))
        as_document = vectors(embed(cache, table, model=str(tmp_path), prompt_name="document"))
        with pytest.raises(InvalidParams, match=r"has no prompt 'querry'\. Did you mean 'query'"):
            embed(cache, table, model=str(tmp_path), prompt_name="querry")
        with pytest.raises(InvalidParams, match="both 'prompt' and 'prompt_name'"):
            embed(cache, table, model=str(tmp_path), prompt_name="query", prompt="x")
    assert cosines(by_default, encode(reference, ["query: a text"])).min() > 0.9999
    assert cosines(as_document, encode(reference, ["a text"])).min() > 0.9999


def test_a_prompt_that_is_not_to_be_pooled_is_left_out_as_encode_does(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(FOLDER), device="cpu")
    model.set_pooling_include_prompt(include_prompt=False)
    model.save(str(tmp_path))
    with cache_over(tmp_path) as cache:
        found = vectors(embed(cache, pa.table({"text": ["a text", "two"]}), model=str(tmp_path), prompt="query: "))
    assert cosines(found, encode(model, ["a text", "two"], prompt="query: ")).min() > 0.9999


def test_a_text_that_is_too_long_is_cut_or_given_up_on(cache: OperatorCache, reference: SentenceTransformer) -> None:
    texts = ["one two three", "one two three four five six", "one"]
    table = pa.table({"text": texts})
    cut = vectors(embed(cache, table, max_tokens=5))
    assert cosines(cut, encode(reference, ["one two three", "one two three", "one"])).min() > 0.9999
    strict = run(cache, "embed", table, model=MODEL, max_tokens=5, truncate=False)
    assert strict.table["text"].to_pylist() == ["one two three", "one"]
    assert [row.failure.message for row in strict.dead] == ["the text has 8 tokens, the model takes 5"]
    with pytest.raises(InvalidParams, match=r"max_tokens is 257, but .* takes at most 256"):
        embed(cache, table, max_tokens=257)


def test_vectors_are_shortened_and_scaled_again_on_demand(cache: OperatorCache, reference: SentenceTransformer) -> None:
    found = vectors(embed(cache, pa.table({"text": ["a text"]}), dimensions=64))
    assert found.shape == (1, 64)
    expected = encode(reference, ["a text"], truncate_dim=64, normalize_embeddings=True)
    assert found == pytest.approx(expected, abs=1e-5)
    with pytest.raises(InvalidParams, match="makes vectors of 384 numbers"):
        embed(cache, pa.table({"text": ["a text"]}), dimensions=385)


@pytest.mark.parametrize(
    ("output_type", "element", "length"),
    [("float16", pa.float16(), 384), ("int8", pa.int8(), 384), ("binary", pa.uint8(), 48)],
)
def test_vectors_in_other_numbers_stand_for_the_same_ones(
    cache: OperatorCache, texts: list[str], output_type: str, element: pa.DataType, length: int
) -> None:
    table = pa.table({"text": texts[:6]})
    exact, found = embed(cache, table), embed(cache, table, output_type=output_type)
    assert found.schema.field("embedding").type == pa.list_(element, length)
    expected, numbers = vectors(exact), vectors(found)
    if output_type == "binary":
        assert np.array_equal(np.unpackbits(numbers, axis=1), expected > 0)
    else:
        assert cosines(expected, numbers.astype(np.float32)).min() > 0.9995
    if output_type == "int8":
        assert np.abs(numbers.astype(int)).max(axis=1).tolist() == [127] * 6


def test_binary_vectors_need_whole_bytes(cache: OperatorCache) -> None:
    with pytest.raises(InvalidParams, match="multiple of 8 numbers, got 60"):
        embed(cache, pa.table({"text": ["a"]}), output_type="binary", dimensions=60)


def test_tokens_of_each_text_are_counted_on_demand(cache: OperatorCache) -> None:
    table = embed(cache, pa.table({"text": ["", "one two three", "word " * 600]}), token_counts=True)
    assert table["tokens"].to_pylist() == [2, 5, 256]
    assert table.schema.field("tokens").type == pa.int32()


@pytest.mark.slow
def test_half_precision_gives_float32_vectors_close_to_the_full_ones(
    cache: OperatorCache, reference: SentenceTransformer, texts: list[str]
) -> None:
    found = embed(cache, pa.table({"text": texts[:4]}), precision="bfloat16")
    assert found.schema.field("embedding").type == pa.list_(pa.float32(), 384)
    similar = cosines(vectors(found), encode(reference, texts[:4]))
    assert similar.min() > 0.99
    assert similar.max() < 0.9999999


def test_a_row_costs_the_tokens_that_the_model_sees_of_it() -> None:
    operator: Any = definition_of("embed").build({"model": MODEL})
    operator.setup("cpu")
    assert operator.costs(pa.table({"text": ["", "one two three", None, "word " * 600]})) == [2, 5, 1, 256]
    assert operator.memory_bytes() == pytest.approx((FOLDER / "model.safetensors").stat().st_size, rel=0.01)


def test_a_model_that_is_no_plain_transformer_gives_the_vectors_of_its_own_encode(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    model = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=16)], device="cpu")
    model.save(str(tmp_path))
    texts = ["", "one", "one two three"]
    with cache_over(tmp_path) as cache:
        found = vectors(embed(cache, pa.table({"text": texts}), model=str(tmp_path), normalize=False))
        with pytest.raises(InvalidParams, match="truncate=false is not possible"):
            embed(cache, pa.table({"text": texts}), model=str(tmp_path), truncate=False)
        with pytest.raises(InvalidParams, match="does not report the tokens of a text"):
            embed(cache, pa.table({"text": texts}), model=str(tmp_path), token_counts=True)
        with pytest.raises(InvalidParams, match="reads texts of any length"):
            embed(cache, pa.table({"text": texts}), model=str(tmp_path), max_tokens=4)
    assert found == pytest.approx(encode(model, texts), abs=1e-6)


def test_a_classifier_is_refused_with_the_operator_that_takes_it(tmp_path: Path) -> None:
    model = tiny_classifier(tmp_path, ["no", "yes"])
    with (
        cache_over(tmp_path) as cache,
        pytest.raises(
            InvalidParams,
            match=r"'embed' expects an embedding model, got .*, which is a sequence classifier "
            r"\(BertForSequenceClassification\)\. Use it with 'classify'",
        ),
    ):
        embed(cache, pa.table({"text": ["a"]}), model=str(model))


def test_parameters_that_differ_load_the_same_weights_again(texts: list[str]) -> None:
    with cache_over(FOLDER.parent) as own:
        for normalize in (True, False):
            embed(own, pa.table({"text": texts[1:3]}), normalize=normalize)
        assert len(own.loaded()) == 2
