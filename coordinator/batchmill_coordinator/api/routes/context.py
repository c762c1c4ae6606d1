"""How routes come by the service, and how they answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request, Response

from batchmill_coordinator.service import Service

if TYPE_CHECKING:
    from pydantic import BaseModel


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


CurrentService = Annotated[Service, Depends(_service)]


async def _tenant(request: Request) -> str:
    tenant: str = request.state.tenant
    return tenant


CurrentTenant = Annotated[str, Depends(_tenant)]


def json_response(value: BaseModel, status_code: int = 200) -> Response:
    """A value as JSON, dumped once."""
    return Response(value.model_dump_json(), status_code, media_type="application/json")
