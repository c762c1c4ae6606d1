"""Batchmill runs a model over many rows: the client, the operator contract and the errors.

    import batchmill

    with batchmill.local(workers=2) as client:  # or batchmill.Client(url, token)
        job = client.submit("echo", rows=[{"id": 1}])
        table = job.to_table()

Everything is imported on first use, so that `import batchmill` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchmill.client import AsyncClient, AsyncJob, Client, Job
    from batchmill.client.job_stage import AsyncJobStage, JobStage
    from batchmill.client.submitting.options import JobOptions
    from batchmill.client.submitting.stage import Stage
    from batchmill.client.submitting.window import Window
    from batchmill.embedded.local import local
    from batchmill.errors import (
        BatchmillError,
        Conflict,
        InvalidOperator,
        InvalidOutput,
        InvalidParams,
        InvalidRequest,
        InvalidRows,
        InvalidSettings,
        InvalidSource,
        JobCancelled,
        JobEnded,
        JobExpired,
        JobFailed,
        MissingExtra,
        ModelNotLoaded,
        NotFound,
        OperatorFailed,
        OutcomeUnknown,
        PayloadTooLarge,
        ServiceUnavailable,
        StorageError,
        TooManyRequests,
        Unauthorized,
        UnknownOperator,
        WorkerLost,
    )
    from batchmill.jobs.dead_letters import DeadLetter
    from batchmill.jobs.job import BatchPolicy, JobState, RetryPolicy
    from batchmill.jobs.sink import IndexSpec, SinkSpec
    from batchmill.jobs.status import JobStatus
    from batchmill.jobs.streams.source import Folder, Kafka, Nats, Push, RedisStream
    from batchmill.operators.contract import Expansion, PartialResult, RowError
    from batchmill.operators.registration import operator

    __version__: str

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "AsyncJobStage",
    "BatchPolicy",
    "BatchmillError",
    "Client",
    "Conflict",
    "DeadLetter",
    "Expansion",
    "Folder",
    "IndexSpec",
    "InvalidOperator",
    "InvalidOutput",
    "InvalidParams",
    "InvalidRequest",
    "InvalidRows",
    "InvalidSettings",
    "InvalidSource",
    "Job",
    "JobCancelled",
    "JobEnded",
    "JobExpired",
    "JobFailed",
    "JobOptions",
    "JobStage",
    "JobState",
    "JobStatus",
    "Kafka",
    "MissingExtra",
    "ModelNotLoaded",
    "Nats",
    "NotFound",
    "OperatorFailed",
    "OutcomeUnknown",
    "PartialResult",
    "PayloadTooLarge",
    "Push",
    "RedisStream",
    "RetryPolicy",
    "RowError",
    "ServiceUnavailable",
    "SinkSpec",
    "Stage",
    "StorageError",
    "TooManyRequests",
    "Unauthorized",
    "UnknownOperator",
    "Window",
    "WorkerLost",
    "__version__",
    "local",
    "operator",
]

_HOMES = {
    "batchmill.client": ("AsyncClient", "AsyncJob", "Client", "Job"),
    "batchmill.client.job_stage": ("AsyncJobStage", "JobStage"),
    "batchmill.client.submitting.options": ("JobOptions",),
    "batchmill.client.submitting.stage": ("Stage",),
    "batchmill.client.submitting.window": ("Window",),
    "batchmill.embedded": ("local",),
    "batchmill.jobs.dead_letters": ("DeadLetter",),
    "batchmill.jobs.job": ("BatchPolicy", "JobState", "RetryPolicy"),
    "batchmill.jobs.sink": ("IndexSpec", "SinkSpec"),
    "batchmill.jobs.status": ("JobStatus",),
    "batchmill.jobs.streams.source": ("Folder", "Kafka", "Nats", "Push", "RedisStream"),
    "batchmill.operators.contract": ("Expansion", "PartialResult", "RowError"),
    "batchmill.operators.registration": ("operator",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name == "__version__":
        value: object = importlib.import_module("importlib.metadata").version("batchmill")
    elif name in __all__:
        value = getattr(importlib.import_module(_HOME.get(name, "batchmill.errors")), name)
    else:
        raise AttributeError(f"module 'batchmill' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
