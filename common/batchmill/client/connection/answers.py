"""The lists that the service answers with."""

from __future__ import annotations

from pydantic import BaseModel

from batchmill.fleet import PoolStatus, PoolUsage, WorkerInfo
from batchmill.jobs.index_status import IndexStatus
from batchmill.jobs.status import JobStatus
from batchmill.jobs.streams.pushing import PushedStream
from batchmill.jobs.webhooks.delivery import WebhookDelivery
from batchmill.operators.contract import OperatorInfo


class JobsAnswer(BaseModel):
    """A page of jobs; `next`: where the one after it begins."""

    jobs: list[JobStatus]
    next: str | None = None


class WorkersAnswer(BaseModel):
    """The workers that are present."""

    workers: list[WorkerInfo]


class PoolsAnswer(BaseModel):
    """What runs and waits in each pool."""

    pools: list[PoolStatus]


class PoolUsageAnswer(BaseModel):
    """What the workers of each pool cost."""

    pools: list[PoolUsage]


class IndexesAnswer(BaseModel):
    """Some of the indexes that the tenant may search."""

    indexes: list[IndexStatus]
    next: str | None = None


class DeliveriesAnswer(BaseModel):
    """Some of the messages of the tenant's webhooks."""

    deliveries: list[WebhookDelivery]


class StreamsAnswer(BaseModel):
    """The streams to which rows of the tenant were sent."""

    streams: list[PushedStream]


class OperatorsAnswer(BaseModel):
    """The operators that workers have announced."""

    operators: list[OperatorInfo]
