"""Backends on real weights: results are those of torch, and `auto` takes another one only if it is exact and faster."""

from __future__ import annotations

import ctypes
import logging
from importlib.metadata import PackageNotFoundError
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from batchmill.errors import InvalidParams, MissingExtra, OperatorFailed
from batchmill.storage.locations import Locations
from batchmill_worker.backends import openvino_backend, openvino_library, selection
from batchmill_worker.backends.converted_models import ConvertedModels
from batchmill_worker.models.operator_cache import OperatorCache
from batchmill_worker.models.setup_context import SetupContext
from support.text_models import FOLDER, MODEL, definition_of, offline, run, tiny_classifier

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.models
TEXTS = ["", "one", "naïve café 数据", "A longer text than the others, " * 5, "word " * 300]
TABLE = pa.table({"text": TEXTS, "query": ["what is it"] * len(TEXTS)})


@pytest.fixture(scope="module", autouse=True)
def _offline() -> Iterator[None]:
    with offline():
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny_classifier(folder / "two", ["no", "yes"])
    tiny_classifier(folder / "scorer", ["LABEL_0"])
    return folder


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("converted")


@pytest.fixture
def cache(models: Path, converted: Path) -> Iterator[OperatorCache]:
    """The operators of a process that has loaded none; converted models outlast it."""
    locations = Locations([str(models), str(FOLDER.parent)])
    cache = OperatorCache("cpu", SetupContext(locations, ConvertedModels(converted, 2**30)))
    yield cache
    cache.close()


def computes_with(cache: OperatorCache, name: str, **params: Any) -> tuple[str, float | None]:
    with cache.borrow(definition_of(name), params) as ready:
        info = ready.backend()
    assert info is not None
    return info.key, info.worst_cosine


def vectors(cache: OperatorCache, **params: Any) -> np.ndarray[Any, Any]:
    table = run(cache, "embed", TABLE, batch_size=2, model=MODEL, **params).table
    assert table["text"].to_pylist() == TEXTS
    return np.stack(table["embedding"].to_numpy())


def cosines(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = (one * other).sum(1)
    return found


@pytest.mark.slow
def test_vectors_of_openvino_are_those_of_torch_whatever_the_batch(cache: OperatorCache) -> None:
    torch = vectors(cache, backend="torch")
    assert computes_with(cache, "embed", model=MODEL, backend="torch") == ("torch float32", None)
    openvino = vectors(cache, backend="openvino")
    key, cosine = computes_with(cache, "embed", model=MODEL, backend="openvino")
    assert key == "openvino float32"
    assert cosine is not None
    assert cosine > 0.99999
    assert cosines(torch, openvino).min() > 0.99999
    alone = run(cache, "embed", TABLE.slice(3, 1), model=MODEL, backend="openvino").table
    assert cosines(np.stack(alone["embedding"].to_numpy()), torch[3:4]).min() > 0.99999


@pytest.mark.slow
def test_weights_in_int8_are_close_and_their_error_is_measured(cache: OperatorCache) -> None:
    rounded = vectors(cache, precision="int8")
    key, cosine = computes_with(cache, "embed", model=MODEL, precision="int8")
    assert key == "openvino int8"
    assert cosine is not None
    assert 0.99 < cosine < 0.999999
    assert 0.99 < cosines(vectors(cache, backend="torch"), rounded).min() < 0.999999
    with cache.borrow(definition_of("embed"), {"model": MODEL, "precision": "int8"}) as ready:
        assert ready.fingerprint().endswith(" openvino int8")
    with pytest.raises(InvalidParams, match="'int8' needs the backend 'openvino'"):
        vectors(cache, backend="torch", precision="int8")


@pytest.mark.slow
def test_half_precision_of_torch_has_its_measured_error(cache: OperatorCache) -> None:
    key, cosine = computes_with(cache, "embed", model=MODEL, backend="torch", precision="bfloat16")
    assert key == "torch bfloat16"
    assert cosine is not None
    assert 0.99 < cosine < 0.999999


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model", "column"), [("classify", "two", "score"), ("rerank", "scorer", "score")])
def test_scores_of_openvino_are_those_of_torch(
    cache: OperatorCache, models: Path, name: str, model: str, column: str
) -> None:
    by_backend = [
        run(cache, name, TABLE, batch_size=2, model=str(models / model), backend=backend).table
        for backend in ("torch", "openvino")
    ]
    torch, openvino = (np.array(table[column].to_pylist()) for table in by_backend)
    assert openvino == pytest.approx(torch, abs=1e-4)
    assert computes_with(cache, name, model=str(models / model), backend="openvino")[0] == "openvino float32"


def test_auto_takes_openvino_if_it_is_exact_and_faster_and_converts_once(
    cache: OperatorCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    vectors(cache, backend="openvino")
    monkeypatch.setattr(openvino_backend, "convert", None)  # from here on, every form is found
    monkeypatch.setattr(selection, "compare", None)  # and so is every comparison
    monkeypatch.setattr(selection, "MIN_GAIN", 0.0)
    with caplog.at_level(logging.INFO):
        assert computes_with(cache, "embed", model=MODEL)[0] == "openvino float32"
    assert "runs on OpenVINO in float32" in caplog.text
    assert "times as fast as torch, worst cosine" in caplog.text


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [("MIN_GAIN", 1e9, "is not faster"), ("MIN_COSINE", {"float32": 1.1}, "differs from torch by more than")],
)
def test_auto_takes_torch_and_says_why_if_openvino_is_slower_or_differs(
    cache: OperatorCache,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    value: Any,
    reason: str,
) -> None:
    monkeypatch.setattr(selection, name, value)
    with caplog.at_level(logging.INFO):
        assert computes_with(cache, "embed", model=MODEL) == ("torch float32", None)
    assert f"runs on torch: OpenVINO {reason}" in caplog.text


def test_a_conversion_that_fails_ends_in_torch_for_auto_and_is_an_error_if_openvino_is_demanded(
    cache: OperatorCache, models: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no rule for this model")

    monkeypatch.setattr(openvino_backend, "convert", fail)
    monkeypatch.setattr(openvino_backend, "_FORM", 0)  # of which none is stored
    params = {"model": str(models / "two")}
    assert computes_with(cache, "classify", **params)[0] == "torch float32"
    assert "runs on torch: OpenVINO failed (RuntimeError: no rule for this model)" in caplog.text
    with pytest.raises(OperatorFailed, match="with OpenVINO: RuntimeError: no rule for this model"):
        computes_with(cache, "classify", backend="openvino", **params)


@pytest.mark.slow
def test_a_broken_form_is_made_again(models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = OperatorCache("cpu", SetupContext(Locations([str(models)]), ConvertedModels(tmp_path, 2**30)))
    params = {"model": str(models / "two"), "backend": "openvino"}
    computes_with(own, "classify", **params)
    (graph,) = tmp_path.glob("*/model.xml")
    graph.write_text("<net")
    assert computes_with(own, "classify", **params, top_k=1)[0] == "openvino float32"  # it is loaded anew
    assert "is made again" in caplog.text
    assert graph.stat().st_size > 1000
    own.close()


def test_the_use_of_openvino_is_reported_to_nobody() -> None:
    openvino_library.computes_in("bfloat16")
    from openvino.tools import ovc

    assert type(ovc.telemetry).__module__ == "openvino.tools.ovc.telemetry_stub"


def test_signals_reach_a_thread_that_has_loaded_a_model(cache: OperatorCache) -> None:
    """The library gives the thread that compiles a model another stack for them, and takes it away with the model."""
    before = _signal_stack()
    computes_with(cache, "embed", model=MODEL, backend="openvino")
    assert _signal_stack() == before


def _signal_stack() -> int | None:
    class Stack(ctypes.Structure):
        _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("nbytes", ctypes.c_size_t))

    found = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
    start: int | None = found.start
    return start


def test_a_missing_library_is_named_with_its_extra(cache: OperatorCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(library: str) -> str:
        raise PackageNotFoundError(library)

    monkeypatch.setattr(openvino_backend, "version", missing)
    assert computes_with(cache, "embed", model=MODEL)[0] == "torch float32"
    with pytest.raises(MissingExtra, match=r"extra 'openvino': openvino is not installed") as error:
        computes_with(cache, "embed", model=MODEL, backend="openvino")
    assert "batchmill[openvino]" in error.value.hint


def test_a_model_that_is_no_plain_transformer_runs_on_torch(cache: OperatorCache, models: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    module = StaticEmbedding(tokenizer, embedding_dim=16)
    SentenceTransformer(modules=[module], device="cpu").save(str(models / "static"))
    params = {"model": str(models / "static")}
    assert computes_with(cache, "embed", **params) == ("torch float32", None)
    with pytest.raises(InvalidParams, match="no plain transformer"):
        computes_with(cache, "embed", backend="openvino", **params)
