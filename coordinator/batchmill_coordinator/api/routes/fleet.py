"""Workers, pools and operators over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel

from batchmill.errors import Forbidden, ServiceUnavailable
from batchmill.fleet import PoolScale, PoolStatus, PoolUsage, WorkerInfo
from batchmill.insights.trends import TrendList
from batchmill.insights.trials import TrialList
from batchmill.jobs.job import POOL_PATTERN
from batchmill.operators.contract import OperatorInfo
from batchmill_coordinator.api.openapi import raises
from batchmill_coordinator.api.routes.context import CurrentContext, json_response
from batchmill_coordinator.api.routes.routing import ApiRoute
from batchmill_coordinator.scheduling.scaling.usage import MAX_DAYS

router = APIRouter(tags=["fleet"], route_class=ApiRoute)


class WorkerList(BaseModel):
    """The workers that are present."""

    workers: list[WorkerInfo]


class PoolList(BaseModel):
    """The pools that have workers or jobs."""

    pools: list[PoolStatus]


class PoolUsageList(BaseModel):
    """What pools cost, by name."""

    pools: list[PoolUsage]


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


@router.get("/v1/pools/usage", response_model=PoolUsageList, responses=raises(Forbidden))
def usage(context: CurrentContext, days: Annotated[int, Query(ge=1, le=MAX_DAYS)] = 7) -> Response:
    """Compare what the workers of each pool cost in the last days with what would have been enough."""
    context.access.require_admin("read the cost of pools")
    return json_response(PoolUsageList(pools=context.scaling.usage(days)))


@router.get("/v1/pools/{pool}/scale", response_model=PoolScale, responses=raises(ServiceUnavailable))
def scale(context: CurrentContext, pool: Annotated[str, Path(pattern=POOL_PATTERN)]) -> Response:
    """Say how many workers a pool needs, and why, as the leader has decided in the last seconds.

    The token for metrics opens it too. It never answers 0 because it does not know: without the ledger, or a leader, it
    answers 503.
    """
    return json_response(context.scaling.of(pool))


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
    return json_response(TrendList(trends=context.insights().trends(operator)))


@router.get("/v1/trials", response_model=TrialList)
def trials(
    context: CurrentContext, operator: Annotated[str | None, Query(min_length=1, max_length=128)] = None
) -> Response:
    """Show which settings were tried with operators over the jobs of all tenants, and with which outcome.

    operator: only this one.
    """
    return json_response(TrialList(trials=context.insights().trials(operator)))
