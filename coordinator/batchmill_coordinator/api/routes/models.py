"""Served models over HTTP, in the form that clients of OpenAI know."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from batchmill.errors import Forbidden, NotFound
from batchmill.storage.served_models import ModelKind
from batchmill_coordinator.api.openapi import raises
from batchmill_coordinator.api.routes.context import CurrentContext, json_response
from batchmill_coordinator.api.routes.routing import ApiRoute
from batchmill_coordinator.lane.served import ModelState

router = APIRouter(prefix="/v1", tags=["models"], route_class=ApiRoute)


class ModelStatus(BaseModel):
    """A served model.

    created: seconds since the epoch. kind: which routes answer for it; null: calls only. error: why it has failed.
    """

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    operator: str
    pool: str
    kind: ModelKind | None
    state: ModelState
    error: str | None


class ModelList(BaseModel):
    """The served models, in the order of the settings."""

    object: Literal["list"] = "list"
    data: list[ModelStatus]


@router.get("/models", response_model=ModelList)
def list_models(context: CurrentContext) -> Response:
    """List the models that are served."""
    return json_response(ModelList(data=[_status(context, name) for name in context.served.models]))


@router.get("/models/{name:path}", response_model=ModelStatus, responses=raises(NotFound))
def read(context: CurrentContext, name: str) -> Response:
    """Show a served model."""
    context.served_model(name)
    return json_response(_status(context, name))


@router.delete("/models/{name:path}", status_code=403, responses=raises(Forbidden, NotFound))
def delete(context: CurrentContext, name: str) -> Response:
    """Refuse to delete a model: those that are served are in the settings."""
    context.served_model(name)
    raise Forbidden(
        f"the model {name[:128]!r} is not a client's to delete.",
        hint="Remove it from the file of BATCHMILL_MODELS, and restart the coordinators.",
    )


def _status(context: CurrentContext, name: str) -> ModelStatus:
    model = context.served_model(name)
    state, error = context.model_state(name)
    return ModelStatus(
        id=name,
        created=context.served.created_at,
        owned_by="batchmill",
        operator=model.operator,
        pool=model.pool,
        kind=model.answers,
        state=state,
        error=error,
    )
