"""`/v1/embeddings`: each input is a row with a text; its result has the vector."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, Field

from batchmill_coordinator.endpoints.base import BodyFault, Rows, Usage, parsed, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from batchmill.storage.served_models import ModelKind, ServedModel
    from batchmill_coordinator.endpoints.base import Answered

MAX_INPUTS = 2048
MAX_TOKENS = 65_536
"""Of one input; more than any model reads."""
TEXT = "text"
VECTOR = "embedding"
TOKENS = "tokens"
VALUE = "<f4"
NO_VECTOR = "the model's operator makes no column 'embedding'."


Text = Annotated[str, Field(min_length=1)]
Inputs = Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
Token = Annotated[int, Field(ge=0, lt=1 << 31)]
TokenList = Annotated[list[Token], Field(min_length=1, max_length=MAX_TOKENS)]
Tokens = Annotated[
    TokenList | Annotated[list[TokenList], Field(min_length=1, max_length=MAX_INPUTS)],
    Field(description="Tokens of the model's own tokenizer."),
]


class EmbeddingsRequest(BaseModel):
    """Texts to embed. Fields that it does not name are ignored."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: Text | Inputs | Tokens
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int | None, Field(ge=1)] = None

    @property
    def has_tokens(self) -> bool:
        """Whether the inputs are tokens, not texts."""
        return not isinstance(self.input, str) and not isinstance(self.input[0], str)


class Embeddings:
    """Reads a row's vector from its column `embedding`, and its number of tokens from `tokens`."""

    url = "/v1/embeddings"
    kind: ModelKind | None = "embeddings"
    row_params: Mapping[str, Any] = {"token_counts": True}

    def check(self, model: ServedModel) -> None:
        """See `Endpoint`."""

    def rows(self, body: Mapping[str, Any], model: ServedModel | None) -> Rows:
        """See `Endpoint`. `dimensions` shortens the vector of the model."""
        asked = parsed(body, EmbeddingsRequest)
        given = {"dimensions": asked.dimensions, "base64": asked.encoding_format == "base64" or None}
        form = {name: value for name, value in given.items() if value is not None}
        if asked.has_tokens:
            raise refuse("input", "has tokens, and batches take only texts")
        return Rows(tuple(rows_of_embeddings(asked, model)), form=form)

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


def rows_of_embeddings(asked: EmbeddingsRequest, model: ServedModel | None) -> list[dict[str, Any]]:
    """Return the rows of a request: with a text each, or with a list of tokens."""
    is_one = isinstance(asked.input, str) or isinstance(asked.input[0], int)
    inputs = [asked.input] if is_one else asked.input
    column = text_column(model)
    return [{column: one} for one in inputs]


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


def _shortened(vectors: npt.NDArray[np.float32], dimensions: int) -> npt.NDArray[np.float32]:
    """Keep the first numbers of each vector, scaled to the length that it had."""
    if dimensions > vectors.shape[1]:
        raise BodyFault(
            f"'dimensions' is {dimensions}, and the model makes vectors of {vectors.shape[1]} numbers.", "dimensions"
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = vectors[:, :dimensions]
    return np.asarray(kept * (lengths / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-30)), VALUE)
