"""`/v1/embeddings`."""

from __future__ import annotations

import base64
import json
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from batchmill.errors import InvalidRequest, ModelNotFound
from batchmill_coordinator.api.openapi import JSON, raises
from batchmill_coordinator.api.routes.calls import OF_LANE
from batchmill_coordinator.api.routes.context import Context, CurrentContext
from batchmill_coordinator.api.routes.openai.served import refuse, target_of
from batchmill_coordinator.api.routes.routing import OpenAiRoute, json_body
from batchmill_coordinator.api.routes.waiting import unless_gone

router = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAiRoute)

MAX_INPUTS = 2048
SMALL_NUMBERS = 16_384
"""Numbers that are encoded on the event loop; more are in the request pool."""

Text = Annotated[str, Field(min_length=1)]
Inputs = Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
Tokens = Annotated[
    Annotated[list[int], Field(min_length=1)] | Annotated[list[list[int]], Field(min_length=1)],
    Field(description="Not supported: send text."),
]


class EmbeddingsRequest(BaseModel):
    """Texts to embed. Fields that it does not name are ignored."""

    model: Annotated[str, Field(min_length=1, max_length=256)]
    input: Text | Inputs | Tokens
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int | None, Field(ge=1)] = None


class EmbeddingUsage(BaseModel):
    """How many tokens the model has read."""

    prompt_tokens: int
    total_tokens: int


class Embedding(BaseModel):
    """One vector: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(BaseModel):
    """A vector for each input."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


@router.post("/embeddings", response_model=EmbeddingList, responses={**OF_LANE, **raises(ModelNotFound)})
async def embeddings(
    context: CurrentContext,
    request: Request,
    asked: Annotated[EmbeddingsRequest, json_body(EmbeddingsRequest)],
) -> Response:
    """Embed texts with a served model, as OpenAI's API does."""
    results = await unless_gone(request, _results(context, asked))
    table = pa.ipc.open_stream(results).read_all()
    if table.nbytes <= SMALL_NUMBERS * 4:
        body = _body(asked, table)
    else:
        body = await context.heavy_pool.run(_body, asked, table)
    return Response(body, media_type=JSON, headers=context.lane_headers)


async def _results(context: Context, asked: EmbeddingsRequest) -> bytes:
    target, model = await target_of(context, asked.model, "embeddings")
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    if not all(isinstance(text, str) for text in texts):
        raise refuse("input", "has tokens, and only texts are supported")
    column = str(model.params.get("column", "text"))
    async with context.lane_call(target, [{column: text} for text in texts]) as call:
        return await call.results()


def _body(asked: EmbeddingsRequest, table: pa.Table) -> bytes:
    vectors = _vectors(table)
    if asked.dimensions is not None:
        vectors = _shortened(vectors, asked.dimensions)
    if asked.encoding_format == "base64":
        encoded: list[Any] = [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
    else:
        encoded = vectors.tolist()
    tokens = int(sum(table.column("tokens").to_pylist())) if "tokens" in table.column_names else 0
    body = {
        "object": "list",
        "data": [{"object": "embedding", "index": place, "embedding": one} for place, one in enumerate(encoded)],
        "model": asked.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return json.dumps(body).encode()


def _vectors(table: pa.Table) -> npt.NDArray[np.float32]:
    """Return the vectors of the column `embedding`, one for each row, as little-endian float32."""
    if "embedding" not in table.column_names or not table.num_rows:
        raise InvalidRequest("the model's operator makes no column 'embedding'.", field="model")
    column = table.column("embedding").combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(values.reshape(table.num_rows, -1), dtype="<f4")


def _shortened(vectors: npt.NDArray[np.float32], dimensions: int) -> npt.NDArray[np.float32]:
    """Keep the first numbers of each vector, scaled to the length that it had."""
    if dimensions > vectors.shape[1]:
        raise refuse("dimensions", f"is {dimensions}, and the model makes vectors of {vectors.shape[1]} numbers")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    kept = vectors[:, :dimensions]
    return np.ascontiguousarray(kept * (lengths / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-30)))
