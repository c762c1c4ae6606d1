"""From a served model to what its rows are: the target of a call, and the columns that a route fills."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidRequest
from batchmill_coordinator.lane.target import LaneTarget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.operators.contract import OperatorInfo
    from batchmill.storage.served_models import ModelKind, ServedModel
    from batchmill_coordinator.api.routes.context import Context

ROW_PARAMS: dict[ModelKind, dict[str, Any]] = {
    "embeddings": {"token_counts": True},
    "chat": {"messages": "messages", "options": "options"},
    "completions": {"prompt": "{prompt}", "options": "options"},
}
"""Parameters that name the columns in which a row has what a request brings, as far as an operator has them."""

ROUTES = {"embeddings": "/v1/embeddings", "chat": "/v1/chat/completions", "completions": "/v1/completions"}


def served_params(operator: OperatorInfo, kind: ModelKind | None, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a served model, with those that its rows need. Pure."""
    known = operator.params_schema.get("properties", {})
    of_rows = ROW_PARAMS[kind] if kind else {}
    return {name: value for name, value in of_rows.items() if name in known} | dict(params)


async def target_of(context: Context, name: str, kind: ModelKind) -> tuple[LaneTarget, ServedModel]:
    """Return the target of a request for a served model.

    Raises `ModelNotFound`, `InvalidRequest` for a model that another route answers for, or `UnknownOperator`.
    """
    model = context.served_model(name)
    if model.answers != kind:
        where = f"Send it to {ROUTES[model.answers]}." if model.answers else "Call its operator instead."
        raise InvalidRequest(f"the model {name!r} is none for {ROUTES[kind]}.", hint=where, field="model")
    operator = await context.operator(model.operator)
    params = served_params(operator, kind, model.params)
    return LaneTarget.of(operator, params, model.pool, name), model


def refuse(field: str, why: str, hint: str = "") -> InvalidRequest:
    """Return the error for a field of a request that would change the answer and is not supported."""
    return InvalidRequest(f"{field!r} {why}.", hint=hint, field=field)
