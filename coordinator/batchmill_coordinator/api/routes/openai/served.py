"""From a served model to the target of a call, and how refusals are raised."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from batchmill.errors import InvalidParams, InvalidRequest
from batchmill_coordinator.admission.param_checks import check_params
from batchmill_coordinator.endpoints.base import BodyFault
from batchmill_coordinator.endpoints.known import BY_KIND
from batchmill_coordinator.lane.served import served_target

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.storage.served_models import ModelKind, ServedModel
    from batchmill_coordinator.api.routes.context import Context
    from batchmill_coordinator.lane.target import LaneTarget


async def target_of(context: Context, name: str, kind: ModelKind) -> tuple[LaneTarget, ServedModel]:
    """Return the target of a request for a served model.

    Raises `ModelNotFound`, `InvalidRequest` for a model that another route answers for, `InvalidParams` for one whose
    parameters its operator does not take, or `UnknownOperator`.
    """
    model = context.served_model(name)
    if model.answers != kind:
        where = f"Send it to {BY_KIND[model.answers].url}." if model.answers else "Call its operator instead."
        raise InvalidRequest(f"the model {name!r} is none for {BY_KIND[kind].url}.", hint=where, field="model")
    with as_invalid_request():
        BY_KIND[kind].check(model)
    operator = await context.operator(model.operator)
    target = served_target(name, model, operator)
    try:
        check_params(operator, target.params)
    except InvalidParams as error:
        raise InvalidParams(f"the model {name!r} cannot be loaded: {error.message}", hint=error.hint) from None
    return target, model


@contextmanager
def as_invalid_request() -> Iterator[None]:
    """Raise a `BodyFault` as the `InvalidRequest` that a client gets."""
    try:
        yield
    except BodyFault as fault:
        raise InvalidRequest(fault.message, field=fault.param) from fault
