"""Webhooks over HTTP: the messages that were sent, and sending one again."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel

from batchmill.errors import NotFound
from batchmill.jobs.webhooks.delivery import WebhookDelivery
from batchmill_coordinator.api.openapi import raises
from batchmill_coordinator.api.routes.context import CurrentContext, json_response
from batchmill_coordinator.api.routes.routing import ApiRoute
from batchmill_coordinator.webhooks.deliveries import Deliveries

router = APIRouter(prefix="/v1", tags=["webhooks"], route_class=ApiRoute)


async def _deliveries(request: Request) -> Deliveries:
    """The messages of all tenants; each route names those of its own."""
    deliveries: Deliveries = request.app.state.service.deliveries
    return deliveries


KnownDeliveries = Annotated[Deliveries, Depends(_deliveries)]


class DeliveryList(BaseModel):
    """Messages of webhooks, the newest first. next: what to give as `after` for the next page; None: there is none."""

    deliveries: list[WebhookDelivery]
    next: str | None = None


@router.get("/webhooks/deliveries", response_model=DeliveryList, responses=raises(NotFound))
def list_deliveries(
    context: CurrentContext,
    deliveries: KnownDeliveries,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    after: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """List the messages about the tenant's jobs that are to be sent, or were sent in the last hour, or given up."""
    found, following = deliveries.page(context.access.tenant, limit, after)
    return json_response(DeliveryList(deliveries=found, next=following))


@router.post("/webhooks/deliveries/{delivery_id}/replay", response_model=WebhookDelivery, responses=raises(NotFound))
def replay(context: CurrentContext, deliveries: KnownDeliveries, delivery_id: str) -> Response:
    """Send a message again, under its id, whether it was delivered or given up."""
    return json_response(deliveries.send_again(delivery_id, context.access.may_see))
