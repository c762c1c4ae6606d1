"""The kind of a model, by the files stored with its weights, so that a wrong one is refused before it is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from batchmill.errors import InvalidParams


class ModelKind(Enum):
    """The kinds that operators distinguish; the value is the name in messages."""

    EMBEDDER = "an embedding model"
    CLASSIFIER = "a sequence classifier"


_OPERATORS = {
    ModelKind.EMBEDDER: "'embed', 'similarity', or 'classify' with labels",
    ModelKind.CLASSIFIER: "'classify', or 'rerank' if it has one label",
}
_BY_MODEL_TYPE = {"SentenceTransformer": ModelKind.EMBEDDER, "CrossEncoder": ModelKind.CLASSIFIER}
_OTHER_HEADS = ("ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice", "ForImageClassification")
"""Architectures of transformers that neither embed nor classify a text."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known from a model's files."""

    kind: ModelKind | None  # None: neither, or nothing is known
    name: str  # of its architecture or model type; empty if nothing is known


def require_kind(operator: str, model: str, source: str, wanted: ModelKind, advice: str = "") -> None:
    """Raise `InvalidParams` if the model is known to be of another kind than the operator takes.

    source: the result of `locate_model` for `model`.
    advice: the hint of the error; by default to use the model with the operators for its kind.
    """
    facts = read_facts(source)
    if facts.kind is wanted or not facts.name:
        return
    what = facts.kind.value if facts.kind else "of another kind"
    if facts.kind and not advice:
        advice = f"Use it with {_OPERATORS[facts.kind]}."
    raise InvalidParams(
        f"operator {operator!r} expects {wanted.value}, got {model!r}, which is {what} ({facts.name}).",
        hint=f"{advice} Or name {wanted.value}." if advice else f"Name {wanted.value}.",
        operator=operator,
        parameter="model",
    )


def read_facts(source: str) -> ModelFacts:
    """Read the kind of the model in a folder or on the hub from its files.

    A folder that sentence-transformers wrote contains its kind. The kind of a bare transformer is that of the head of
    its architecture; without a head it is an embedding model, since sentence-transformers takes the mean of its tokens.
    """
    if _read(source, "modules.json") is not None:
        model_type = (_read(source, "config_sentence_transformers.json") or {}).get("model_type", "SentenceTransformer")
        return ModelFacts(_BY_MODEL_TYPE.get(model_type), model_type)
    config = _read(source, "config.json")
    if config is None:
        return ModelFacts(None, "")
    architecture = next(iter(config.get("architectures") or ()), "")
    if architecture.endswith("ForSequenceClassification"):
        return ModelFacts(ModelKind.CLASSIFIER, architecture)
    if architecture.endswith(_OTHER_HEADS):
        return ModelFacts(None, architecture)
    return ModelFacts(ModelKind.EMBEDDER, architecture or str(config.get("model_type", "")))


def _read(source: str, file: str) -> Any:
    """Read a JSON file of a model; None if it does not exist or cannot be read, or the hub cannot be reached."""
    path = Path(source, file) if source.startswith("/") else _from_hub(source, file)
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path else None
    except (OSError, ValueError):
        return None


def _from_hub(model: str, file: str) -> Path | None:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model, file))
    except Exception:  # noqa: BLE001  # the cause will also stop loading, which reports it better
        return None
