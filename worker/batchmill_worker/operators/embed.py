"""`embed`: text to vectors, with a sentence-transformers model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from batchmill.errors import InvalidRows, MissingExtra, OperatorFailed, did_you_mean
from batchmill.operator import PartialResult, RowError, operator
from batchmill_worker import context
from batchmill_worker.failures import Failure, operator_failed
from batchmill_worker.model_source import locate_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sentence_transformers import SentenceTransformer

ROWS_AT_ONCE = 256
"""Texts that are sorted by length together, so that those padded to one length are about as long."""

Model = Annotated[
    str,
    Field(
        min_length=1,
        max_length=4096,
        description="A Hugging Face hub id, an absolute folder, or package:NAME for weights inside an installed "
        "Python package.",
    ),
]
Column = Annotated[str, Field(min_length=1, description="The input column with the text.")]
Normalize = Annotated[bool, Field(description="Scale every vector to length 1.")]
Prompt = Annotated[str | None, Field(description="Put before every text; by default what the model asks for, if any.")]
BatchSize = Annotated[int, Field(ge=1, le=ROWS_AT_ONCE, description="Texts in one pass through the model.")]


@dataclass(frozen=True, slots=True)
class _Tokens:
    """A batch on its way: its texts, longest first, as the model takes them."""

    passes: list[Any]  # the model's input of each pass
    order: list[int]  # for each text, longest first, its place among the batch's texts
    errors: dict[int, RowError]  # by row of the batch: those without a text


@operator("embed", columns=["{column}"], batch_format="arrow", batch_size=ROWS_AT_ONCE)
class Embed:
    """Embed a column of text with a sentence-transformers model.

    The new column `embedding` is a fixed_size_list<float32> of the model's dimension. The vectors are what the
    model's own `encode` gives, whatever else is in the batch. A row whose text is null is given up on.
    """

    def __init__(
        self,
        *,
        model: Model,
        column: Column = "text",
        normalize: Normalize = True,
        prompt: Prompt = None,
        batch_size: BatchSize = 32,
    ) -> None:
        self._name = model
        self._column = column
        self._normalize = normalize
        self._prompt = prompt
        self._batch_size = batch_size
        self._model: SentenceTransformer | None = None

    def setup(self, device: str) -> None:
        """Load the model onto the device.

        Raises `InvalidParams` if there is no such model, `OperatorFailed` if it cannot be loaded, and `MissingExtra`
        if sentence-transformers is not installed.
        """
        self._model = load_model(self._name, device)
        if self._prompt is None and self._model.default_prompt_name is not None:
            self._prompt = self._model.prompts[self._model.default_prompt_name]

    def prepare(self, batch: pa.Table) -> _Tokens:
        """Tokenise a batch, longest texts first, in pieces of `batch_size`."""
        texts, errors = self._texts(batch)
        order = sorted(range(len(texts)), key=lambda place: -len(texts[place]))
        pieces = (order[start : start + self._batch_size] for start in range(0, len(order), self._batch_size))
        model = self._loaded()
        passes = [model.preprocess([texts[place] for place in piece], prompt=self._prompt) for piece in pieces]
        return _Tokens(passes, order, errors)

    def infer(self, tokens: _Tokens) -> tuple[_Tokens, Sequence[Any]]:
        """Pass a batch through the model; the vectors come longest text first."""
        import torch
        from sentence_transformers.util import batch_to_device

        model = self._loaded()
        with torch.inference_mode():
            outputs = [model(batch_to_device(features, model.device)) for features in tokens.passes]
            return tokens, [output["sentence_embedding"].float().cpu() for output in outputs]

    def finish(self, outputs: tuple[_Tokens, Sequence[Any]]) -> PartialResult:
        """The vectors in the order of the rows."""
        import torch

        tokens, vectors = outputs
        if not vectors:
            return PartialResult(pa.table({}), tokens.errors)
        found = torch.cat(list(vectors))[:, : self._loaded().truncate_dim]
        if self._normalize:
            found = torch.nn.functional.normalize(found, dim=1)
        ordered = np.empty(found.shape, dtype=np.float32)
        ordered[tokens.order] = found.numpy()
        column = pa.FixedSizeListArray.from_arrays(pa.array(ordered.reshape(-1)), ordered.shape[1])
        return PartialResult(pa.table({"embedding": column}), tokens.errors)

    def teardown(self) -> None:
        """Let the model go."""
        self._model = None

    def _loaded(self) -> SentenceTransformer:
        if self._model is None:
            raise RuntimeError("embed is used before setup() or after teardown()")
        return self._model

    def _texts(self, batch: pa.Table) -> tuple[list[str], dict[int, RowError]]:
        if self._column not in batch.column_names:
            raise InvalidRows(
                f"operator 'embed' reads the column {self._column!r}, which the rows do not have.",
                hint=did_you_mean(self._column, batch.column_names) + " Set the parameter 'column'.",
                column=self._column,
            )
        values = batch.column(self._column)
        if not _is_text(values.type):
            raise InvalidRows(
                f"operator 'embed' expects text in column {self._column!r}, got {values.type}.",
                hint="Set the parameter 'column' to a column of strings, or convert this one.",
                column=self._column,
            )
        texts: list[str | None] = values.to_pylist()
        message = f"column {self._column!r} is null, expected text"
        errors = {place: RowError(message) for place, text in enumerate(texts) if text is None}
        return [text for text in texts if text is not None], errors


def load_model(name: str, device: str) -> SentenceTransformer:
    """The model of that name, in evaluation mode, on the device. Code that lies beside the weights is never run.

    Raises as `Embed.setup`.
    """
    source = locate_model(name, context.current().locations)
    try:
        from huggingface_hub.utils.tqdm import disable_progress_bars
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtra(
            f"operator 'embed' needs sentence-transformers and torch: {error}.",
            hint="Install them on every worker: pip install 'batchmill[embed]'.",
        ) from error
    disable_progress_bars()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # its signature says nothing
    try:
        return SentenceTransformer(source, device=device, trust_remote_code=False).eval()
    except MemoryError:
        raise
    except Exception as error:
        raise _load_error(name, source, error) from error


def _load_error(name: str, source: str, error: Exception) -> OperatorFailed:
    from huggingface_hub.constants import HF_HUB_CACHE

    if source.startswith("/"):
        where = f"from {source}"
        hint = "The folder must hold a whole sentence-transformers or transformers model, and no code of its own."
    else:
        where = f"from the Hugging Face hub, nor from its copy in {HF_HUB_CACHE}"
        hint = (
            "Check the name, the worker's network and HF_TOKEN; without a network use a folder, package:NAME, or "
            "download the model to the cache beforehand."
        )
    return operator_failed("embed", f"could not load the model {name!r} {where}", Failure.of(error), hint=hint)


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    )
