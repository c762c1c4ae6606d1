"""`embed_spans`: a vector for each of several spans of a text, from one pass over all of it ("late chunking")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from batchmill.errors import InvalidRows, did_you_mean
from batchmill.jobs.sink import SPANS_OPERATOR
from batchmill.operators.contract import Expansion, RowError
from batchmill.operators.registration import operator
from batchmill_worker.operators.embed import Dimensions, Normalize, OutputType, encoded
from batchmill_worker.text.columns import read_texts
from batchmill_worker.text.model import load_embedder
from batchmill_worker.text.params import Column, Model
from batchmill_worker.text.request import ModelRequest
from batchmill_worker.text.span_model import SpanModel, SpanText

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from batchmill_worker.text.windows import Span

CHARACTERS_PER_TOKEN = 4

Spans = Annotated[
    str,
    Field(
        min_length=1,
        description="The input column with the spans: a list of `{start, end}` in characters, or of lists of two "
        "numbers. Null: the complete text is one span.",
    ),
]


@dataclass(frozen=True, slots=True)
class _Batch:
    """Rows that are prepared. texts: of the rows without an error, in order."""

    rows: int
    texts: list[SpanText]
    errors: dict[int, RowError]


@operator(
    SPANS_OPERATOR,
    columns=["{column}", "{spans}"],
    makes=["embedding", "span", "start", "end", "text"],
    batch_format="arrow",
    expands=True,
)
class EmbedSpans:
    """Embed spans of a text, each with the text around it.

    A row makes one row for each of its spans, with the new columns `embedding` (as `embed` makes it), `span` (its
    number, from 0), `start`, `end` and `text`, which is `document[start:end]`. The model reads the complete text once,
    and the vector of a span is the mean of its tokens: so it depends on what the text says elsewhere, such as what a
    pronoun stands for. Prompts are not used. A text that is longer than what the model reads is read in windows, each
    with as many complete spans as fit; a longer span is cut at its end. The model must pool by the mean of its tokens.
    The vector of a text without spans is that of `embed`. A row fails whose text is null, or of which a span is outside
    the text or has no token.

    Source: Günther et al., "Late Chunking: Contextual Chunk Embeddings Using Long-Context Embedding Models", 2024.
    """

    def __init__(
        self,
        *,
        model: Model,
        column: Column = "text",
        spans: Spans = "spans",
        normalize: Normalize = True,
        dimensions: Dimensions = None,
        output_type: OutputType = "float32",
    ) -> None:
        self._column = column
        self._spans = spans
        self._normalize = normalize
        self._dimensions = dimensions
        self._output_type = output_type
        self._request = ModelRequest(SPANS_OPERATOR, "embed", model)
        self._model: SpanModel | None = None

    def setup(self, device: str) -> None:
        """Load the model onto the device. Raises as `load_embedder`, and `InvalidParams` for one that does not fit."""
        loaded = load_embedder(self._request, device)
        self._dimensions = loaded.dimensions(self._dimensions)
        self._model = SpanModel(loaded)

    def costs(self, batch: pa.Table) -> Sequence[float]:
        """Return about the number of tokens of every row."""
        return [
            1 if isinstance(text, RowError) else 2 + len(text) // CHARACTERS_PER_TOKEN for text in self._texts(batch)
        ]

    def prepare(self, batch: pa.Table) -> _Batch:
        """Tokenise the texts, and place the spans in windows."""
        texts, spans = self._texts(batch), self._span_lists(batch)
        errors = {place: text for place, text in enumerate(texts) if isinstance(text, RowError)}
        prepared = []
        for place, (text, own) in enumerate(zip(texts, spans, strict=True)):
            if isinstance(text, RowError):
                continue
            try:
                prepared.append(self._ready().prepare(text, own))
            except RowError as error:
                errors[place] = error
        return _Batch(batch.num_rows, prepared, errors)

    def infer(self, batch: _Batch) -> tuple[_Batch, Tensor]:
        """Run the model over all windows."""
        return batch, self._ready().vectors(batch.texts, self._dimensions, normalize=self._normalize)

    def finish(self, outputs: tuple[_Batch, Tensor]) -> Expansion:
        """Make a row of each span."""
        batch, tensor = outputs
        vectors = encoded(tensor.numpy(), self._output_type)
        spans = [span for text in batch.texts for span in text.spans]
        numbers = [number for text in batch.texts for number in range(len(text.spans))]
        pieces = [text.text[start:end] for text in batch.texts for start, end in text.spans]
        found = pa.table(
            {
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1]),
                "span": pa.array(numbers, pa.int32()),
                "start": pa.array([start for start, _ in spans], pa.int64()),
                "end": pa.array([end for _, end in spans], pa.int64()),
                "text": pa.array(pieces, pa.string()),
            }
        )
        counts = np.zeros(batch.rows, np.int64)
        counts[np.delete(np.arange(batch.rows), list(batch.errors))] = [len(text.spans) for text in batch.texts]
        return Expansion(found, counts.tolist(), batch.errors)

    def teardown(self) -> None:
        """Drop the model."""
        self._model = None

    def memory_bytes(self) -> int:
        """Return the bytes of the model's weights on the device."""
        return self._ready().memory_bytes()

    def fingerprint(self) -> str:
        """Return a fingerprint of the files that the model was loaded from."""
        return self._ready().fingerprint()

    def _texts(self, batch: pa.Table) -> list[str | RowError]:
        return read_texts(batch, SPANS_OPERATOR, self._column)

    def _span_lists(self, batch: pa.Table) -> list[list[Span] | None]:
        if self._spans not in batch.column_names:
            raise InvalidRows(
                f"operator {SPANS_OPERATOR!r} reads the column {self._spans!r}, which the rows do not have.",
                hint=f"{did_you_mean(self._spans, batch.column_names)} Set the parameter 'spans'.",
                column=self._spans,
            )
        try:
            return [None if own is None else [_span(one) for one in own] for own in batch[self._spans].to_pylist()]
        except (TypeError, ValueError, KeyError) as error:
            raise InvalidRows(
                f"the column {self._spans!r} is {batch[self._spans].type}, expected lists of a start and an end each.",
                column=self._spans,
            ) from error

    def _ready(self) -> SpanModel:
        if self._model is None:
            raise RuntimeError(f"{SPANS_OPERATOR!r} is used before setup() or after teardown()")
        return self._model


def _span(value: Any) -> Span:
    start, end = (value["start"], value["end"]) if isinstance(value, dict) else value
    return int(start), int(end)
