"""Workers, pools and operators over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from batchmill.fleet import PoolStatus, WorkerInfo
from batchmill.operators.contract import OperatorInfo
from batchmill.trends import TrendList
from batchmill_coordinator.api.routes.context import CurrentContext, json_response
from batchmill_coordinator.api.routes.routing import ApiRoute

router = APIRouter(tags=["fleet"], route_class=ApiRoute)


class WorkerList(BaseModel):
    """The workers that are present."""

    workers: list[WorkerInfo]


class PoolList(BaseModel):
    """The pools that have workers or jobs."""

    pools: list[PoolStatus]


class OperatorList(BaseModel):
    """The operators that workers have announced."""

    operators: list[OperatorInfo]


@router.get("/v1/workers", response_model=WorkerList)
def workers(context: CurrentContext) -> Response:
    """List the workers that are present, with the attempts they run of the tenant's jobs."""
    return json_response(WorkerList(workers=context.workers()))


@router.get("/v1/pools", response_model=PoolList)
def pools(context: CurrentContext) -> Response:
    """Show what runs and what waits in each pool, of all tenants, up to half a second ago."""
    return json_response(PoolList(pools=context.pools()))


@router.get("/v1/operators", response_model=OperatorList)
def operators(context: CurrentContext) -> Response:
    """List the operators that workers have announced, with their parameters as JSON Schema."""
    return json_response(OperatorList(operators=context.operators()))


@router.get("/v1/trends", response_model=TrendList)
def trends(
    context: CurrentContext, operator: Annotated[str | None, Query(min_length=1, max_length=128)] = None
) -> Response:
    """Show how fast operators were on each type of device over the latest jobs of all tenants, and what has changed.

    operator: only this one, with all of its jobs, which are not named.
    """
    return json_response(TrendList(trends=context.trends(operator)))
