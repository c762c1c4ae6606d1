"""`/v1/embeddings`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pyarrow as pa
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from batchmill.errors import ModelNotFound
from batchmill_coordinator.api.openapi import JSON, raises
from batchmill_coordinator.api.routes.calls import OF_LANE
from batchmill_coordinator.api.routes.context import Context, CurrentContext
from batchmill_coordinator.api.routes.openai.served import as_invalid_request, target_of
from batchmill_coordinator.api.routes.routing import OpenAiRoute, json_body
from batchmill_coordinator.api.routes.waiting import unless_gone
from batchmill_coordinator.endpoints.base import BodyFault
from batchmill_coordinator.endpoints.embeddings import (
    NO_VECTOR,
    TOKENS,
    VECTOR,
    EmbeddingsRequest,
    embedding_list,
    rows_of_embeddings,
)

if TYPE_CHECKING:
    import numpy.typing as npt

router = APIRouter(prefix="/v1", tags=["openai"], route_class=OpenAiRoute)

SMALL_NUMBERS = 16_384
"""Numbers that are encoded on the event loop; more are in the request pool."""


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
    with as_invalid_request():
        rows = rows_of_embeddings(asked, model)
    async with context.lane_call(target, rows) as call:
        return await call.results()


def _body(asked: EmbeddingsRequest, table: pa.Table) -> bytes:
    tokens = int(sum(table.column(TOKENS).to_pylist())) if TOKENS in table.column_names else 0
    is_base64 = asked.encoding_format == "base64"
    with as_invalid_request():
        vectors = _vectors(table)
        made = embedding_list(asked.model, vectors, tokens, dimensions=asked.dimensions, base64=is_base64)
    return json.dumps(made).encode()


def _vectors(table: pa.Table) -> npt.NDArray[np.float32]:
    if VECTOR not in table.column_names or not table.num_rows:
        raise BodyFault(NO_VECTOR, "model")
    column = table.column(VECTOR).combine_chunks()
    values = column.flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(values.reshape(table.num_rows, -1), dtype=np.float32)
