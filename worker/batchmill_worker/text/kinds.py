"""What a model is for, by the files beside its weights: so that one of the wrong kind is refused before it loads."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from batchmill.errors import InvalidParams


class ModelKind(Enum):
    """The kinds that operators tell apart; the value is how a message names one."""

    EMBEDDER = "an embedding model"
    CLASSIFIER = "a sequence classifier"


_OPERATORS = {
    ModelKind.EMBEDDER: "'embed', 'similarity', or 'classify' with labels",
    ModelKind.CLASSIFIER: "'classify', or 'rerank' if it has one label",
}
_BY_MODEL_TYPE = {"SentenceTransformer": ModelKind.EMBEDDER, "CrossEncoder": ModelKind.CLASSIFIER}
_OTHER_HEADS = ("ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice", "ForImageClassification")
"""Of transformers, what neither embeds a text nor classifies it."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model's own files say of it."""

    kind: ModelKind | None  # None: neither, or nothing is known
    name: str  # of its architecture or model type; empty if nothing is known


def require_kind(operator: str, model: str, source: str, wanted: ModelKind, advice: str = "") -> None:
    """Raise `InvalidParams` if the model is known to be of another kind than the operator takes.

    source: what `locate_model` made of `model`.
    advice: what to do then; by default to use the model with the operators for its kind.
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
    """The kind of the model in a folder or on the hub, as far as its files tell.

    A folder that sentence-transformers wrote says so itself. A bare transformer is what the head of its
    architecture says, and without one an embedding model: sentence-transformers takes the mean of its tokens.
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
    """A JSON file of a model, None if it has no such file, it cannot be read, or the hub cannot be reached."""
    path = Path(source, file) if source.startswith("/") else _from_hub(source, file)
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path else None
    except (OSError, ValueError):
        return None


def _from_hub(model: str, file: str) -> Path | None:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model, file))
    except Exception:  # noqa: BLE001  # whatever hinders it will hinder loading, which tells it better
        return None
