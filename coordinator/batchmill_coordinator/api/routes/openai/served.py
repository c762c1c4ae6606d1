"""From a served model to the target of a call, and the refusals that routes share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.errors import InvalidRequest
from batchmill_coordinator.lane.served import served_target

if TYPE_CHECKING:
    from batchmill.storage.served_models import ModelKind, ServedModel
    from batchmill_coordinator.api.routes.context import Context
    from batchmill_coordinator.lane.target import LaneTarget

ROUTES = {"embeddings": "/v1/embeddings", "chat": "/v1/chat/completions", "completions": "/v1/completions"}


async def target_of(context: Context, name: str, kind: ModelKind) -> tuple[LaneTarget, ServedModel]:
    """Return the target of a request for a served model.

    Raises `ModelNotFound`, `InvalidRequest` for a model that another route answers for, or `UnknownOperator`.
    """
    model = context.served_model(name)
    if model.answers != kind:
        where = f"Send it to {ROUTES[model.answers]}." if model.answers else "Call its operator instead."
        raise InvalidRequest(f"the model {name!r} is none for {ROUTES[kind]}.", hint=where, field="model")
    operator = await context.operator(model.operator)
    return served_target(name, model, operator), model


def refuse(field: str, why: str, hint: str = "") -> InvalidRequest:
    """Return the error for a field of a request that would change the answer and is not supported."""
    return InvalidRequest(f"{field!r} {why}.", hint=hint, field=field)
