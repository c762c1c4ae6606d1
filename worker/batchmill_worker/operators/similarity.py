"""`similarity`: how close two texts are in meaning, by the cosine of their vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.operators.contract import PartialResult, RowError
from batchmill.operators.registration import operator
from batchmill_worker.text.columns import read_texts, text_key
from batchmill_worker.text.model import load_embedder
from batchmill_worker.text.params import Column, MaxTokens, Model, Precision, Prompt, Query, Truncate
from batchmill_worker.text.request import ModelRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from batchmill.operators.contract import BackendInfo
    from batchmill_worker.text.model import TextModel
    from batchmill_worker.text.tokens import TextReader


@dataclass(frozen=True, slots=True)
class _Side:
    """One column of a batch, each of its texts once."""

    features: dict[str, Any]
    places: list[int]  # for each row that is left, the place of its text


@dataclass(frozen=True, slots=True)
class _Pairs:
    """A prepared batch."""

    sides: tuple[_Side, ...]  # queries, texts; empty if no row has both
    errors: dict[int, RowError]  # of the rows that fail, by position in the batch


@operator("similarity", columns=["{query_column}", "{column}"], makes=["score"], batch_format="arrow", padded=True)
class Similarity:
    """Score pairs of texts by the cosine of their vectors, from a sentence-transformers model.

    The new column `score` is a float32 between -1 and 1. Within a batch, a text that is in several rows is
    embedded once. A row with a null in either column fails.
    """

    def __init__(
        self,
        *,
        model: Model,
        query_column: Query = "query",
        column: Column = "text",
        query_prompt: Prompt = None,
        prompt: Prompt = None,
        max_tokens: MaxTokens = None,
        truncate: Truncate = True,
        precision: Precision = "auto",
    ) -> None:
        self._columns = {"query_column": query_column, "column": column}
        self._prompts = (query_prompt, prompt)
        self._request = ModelRequest(
            "similarity", "rerank", model, precision=precision, max_tokens=max_tokens, truncate=truncate
        )
        self._model: TextModel | None = None
        self._readers: tuple[TextReader, ...] = ()

    def setup(self, device: str) -> None:
        """Load the model onto the device. Raises as `load_embedder`."""
        self._model = load_embedder(self._request, device)
        self._readers = tuple(self._model.reader(self._model.prompt(prompt)) for prompt in self._prompts)

    def costs(self, batch: pa.Table) -> Sequence[float]:
        """Return the number of tokens of both texts of every row."""
        sides = [reader.costs(texts) for reader, texts in zip(self._readers, self._texts(batch), strict=True)]
        return [query + text for query, text in zip(*sides, strict=True)]

    def row_key(self, row: dict[str, Any]) -> str:
        """Return both texts: results depend on nothing else."""
        return text_key(*(row[column] for column in self._columns.values()))

    def prepare(self, batch: pa.Table) -> _Pairs:
        """Tokenise both columns."""
        sides = self._texts(batch)
        errors: dict[int, RowError] = {}
        for reader, texts in zip(self._readers, sides, strict=True):
            errors = reader.admit(texts)[1] | errors
        left = [place for place in range(batch.num_rows) if place not in errors]
        if not left:
            return _Pairs((), errors)
        pairs = zip(self._readers, sides, strict=True)
        return _Pairs(tuple(_side(reader, [texts[place] for place in left]) for reader, texts in pairs), errors)

    def infer(self, pairs: _Pairs) -> tuple[_Pairs, Tensor | None]:
        """Run the model on both columns, and compute the cosines."""
        if not pairs.sides:
            return pairs, None
        queries, texts = (self._vectors(side) for side in pairs.sides)
        return pairs, (queries * texts).sum(1).clamp(-1, 1)

    def finish(self, outputs: tuple[_Pairs, Tensor | None]) -> PartialResult:
        """Make the column of cosines."""
        pairs, scores = outputs
        return PartialResult(pa.table({} if scores is None else {"score": scores.numpy()}), pairs.errors)

    def teardown(self) -> None:
        """Drop the model."""
        self._model = None
        self._readers = ()

    def memory_bytes(self) -> int:
        """Return the bytes of the model's weights on the device."""
        return self._loaded().memory_bytes()

    def fingerprint(self) -> str:
        """Return a fingerprint of the files that the model was loaded from."""
        return self._loaded().fingerprint()

    def computes_with(self) -> BackendInfo:
        """Return what runs the model."""
        return self._loaded().backend

    def _vectors(self, side: _Side) -> Tensor:
        from torch.nn.functional import normalize

        return self._loaded().forward(side.features, normalize)[side.places]

    def _loaded(self) -> TextModel:
        if self._model is None:
            raise RuntimeError("similarity is used before setup() or after teardown()")
        return self._model

    def _texts(self, batch: pa.Table) -> list[list[str | RowError]]:
        return [read_texts(batch, "similarity", column, name) for name, column in self._columns.items()]


def _side(reader: TextReader, texts: Sequence[Any]) -> _Side:
    place_of = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    return _Side(reader.features(list(place_of)), [place_of[text] for text in texts])
