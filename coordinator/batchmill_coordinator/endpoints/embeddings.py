"""`/v1/embeddings`: each input is a row with a text; its result has the vector."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from batchmill_coordinator.endpoints.base import BodyFault, Rows, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from batchmill.storage.served_models import ModelKind, ServedModel
    from batchmill_coordinator.endpoints.base import Answered

MAX_INPUTS = 2048
TEXT = "text"
VECTOR = "embedding"
TOKENS = "tokens"
VALUE = "<f4"
NO_VECTOR = "the model's operator makes no column 'embedding'."


class Embeddings:
    """Reads a row's vector from its column `embedding`, and its number of tokens from `tokens`."""

    url = "/v1/embeddings"
    kind: ModelKind | None = "embeddings"
    row_params: Mapping[str, Any] = {"token_counts": True}

    def check(self, model: ServedModel) -> None:
        """See `Endpoint`."""

    def rows(self, body: Mapping[str, Any], model: ServedModel | None) -> Rows:
        """See `Endpoint`. `dimensions` shortens the vector of the model."""
        inputs = body.get("input")
        texts = [inputs] if isinstance(inputs, str) else inputs
        if not isinstance(texts, list) or not texts:
            raise BodyFault("Input parameter is required: a text, or a list of texts.", "input")
        if len(texts) > MAX_INPUTS:
            raise BodyFault(f"'input' has {len(texts):,} texts, at most {MAX_INPUTS:,} are allowed.", "input")
        for text in texts:
            if not isinstance(text, str) or not text:
                raise BodyFault("'input' must be texts that are not empty; tokens are not supported.", "input")
        column = text_column(model)
        return Rows(tuple({column: text} for text in texts), form=_form(body))

    def row_schema(self, model: ServedModel | None) -> pa.Schema:
        """See `Endpoint`."""
        return pa.schema({text_column(model): pa.string()})

    def answer(self, about: Answered, results: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], Usage]:
        """See `Endpoint`."""
        if not all(VECTOR in row for row in results):
            raise BodyFault(NO_VECTOR, "model")
        vectors = np.array([row[VECTOR] for row in results], VALUE)
        tokens = sum(int(row.get(TOKENS) or 0) for row in results)
        return embedding_list(about.model, vectors, tokens, **about.form), Usage(tokens)


def text_column(model: ServedModel | None) -> str:
    """Return the column from which a model's operator takes texts."""
    return str(model.params.get("column", TEXT)) if model else TEXT


def embedding_list(
    model: str,
    vectors: npt.NDArray[np.float32],
    tokens: int,
    *,
    dimensions: int | None = None,
    base64: bool = False,
) -> dict[str, Any]:
    """Make the body of an answer. vectors: of shape (inputs, numbers). tokens: of all inputs.

    dimensions: how many numbers of each vector to keep; it has its length then, too. base64: little-endian float32 in
    base64, not numbers. Raises `BodyFault` for more dimensions than there are.
    """
    kept = _shortened(vectors, dimensions) if dimensions is not None else vectors
    data = np.ascontiguousarray(kept, VALUE)
    written: list[Any] = [b64encode(vector.tobytes()).decode() for vector in data] if base64 else data.tolist()
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": place, "embedding": one} for place, one in enumerate(written)],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _form(body: Mapping[str, Any]) -> dict[str, Any]:
    dimensions, encoding = body.get("dimensions"), body.get("encoding_format") or "float"
    if dimensions is not None and (not isinstance(dimensions, int) or isinstance(dimensions, bool) or dimensions < 1):
        raise BodyFault("'dimensions' must be an integer of at least 1.", "dimensions")
    if encoding not in ("float", "base64"):
        raise BodyFault("'encoding_format' must be 'float' or 'base64'.", "encoding_format")
    given = {"dimensions": dimensions, "base64": True if encoding == "base64" else None}
    return {name: value for name, value in given.items() if value is not None}


def _shortened(vectors: npt.NDArray[np.float32], dimensions: int) -> npt.NDArray[np.float32]:
    """Keep the first numbers of each vector, scaled to the length that it had."""
    if dimensions > vectors.shape[1]:
        raise BodyFault(
            f"'dimensions' is {dimensions}, and the model makes vectors of {vectors.shape[1]} numbers.", "dimensions"
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = vectors[:, :dimensions]
    return np.asarray(kept * (lengths / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-30)), VALUE)
