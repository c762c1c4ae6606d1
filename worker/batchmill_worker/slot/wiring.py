"""What the attempts of a device process work with, made from its settings."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.clock import Clock, SystemClock
from batchmill.job import WorkerInfo
from batchmill.ledger import Ledger
from batchmill.ledger.row_cache import Limits
from batchmill.workspace import Workspace
from batchmill_worker.engine.controllers import Tuners
from batchmill_worker.engine.engine import Engine
from batchmill_worker.metering.process import begin_counting
from batchmill_worker.models.model_memory import MIB, default_budget
from batchmill_worker.models.operator_cache import OperatorCache
from batchmill_worker.models.setup_context import SetupContext
from batchmill_worker.row_cache.cache import RowCache
from batchmill_worker.runtime.cost_meter import Meter
from batchmill_worker.runtime.device import DeviceLock, memory_of
from batchmill_worker.runtime.watchdog import Watchdog
from batchmill_worker.slot.job_cache import JobShelf
from batchmill_worker.slot.leases import Heartbeat
from batchmill_worker.slot.loading import load_operators
from batchmill_worker.slot.model_queues import ModelQueues
from batchmill_worker.slot.pricing import hourly_price_nano

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill.operators.contract import OperatorRegistry
    from batchmill.settings import WorkerSettings
    from batchmill_worker.devices.placement import SlotIdentity
    from batchmill_worker.metering.attempts import SlotMeter


@dataclass(frozen=True, slots=True)
class Bench:
    """What the attempts of a process work with."""

    worker: str
    pool: str
    ledger: Ledger
    workspace: Workspace
    heartbeat: Heartbeat
    shelf: JobShelf
    registry: OperatorRegistry
    operators: OperatorCache
    engine: Engine
    tuners: Tuners
    meter: SlotMeter
    rows: RowCache
    usage: Meter
    price_nano: int = 0  # of an hour of this process, in billionths of the currency's unit
    clock: Clock = SystemClock()  # noqa: RUF009  # stateless

    def close(self) -> None:
        """The process ends: what was learned is shared, models are torn down, connections closed."""
        self.tuners.save(at_once=True)
        self.operators.close()
        self.ledger.close()


def make_bench(settings: WorkerSettings, identity: SlotIdentity, note: Path) -> tuple[Bench, ModelQueues]:
    """A bench, and the queues that follow the models on it. note: the watchdog's file.

    Raises `InvalidOperator`, `InvalidSettings` or `StorageError`. The ledger need not be there yet.
    """
    registry = load_operators(settings.operators)
    ledger, workspace = Ledger.open(settings), Workspace.open(settings)
    worker = _describe(settings, identity, registry)
    announced = [definition.announcement() for definition in registry]
    heartbeat = Heartbeat(ledger, worker, announced, settings.lease_ttl_s)
    queues = ModelQueues(settings.pool, heartbeat)
    counts = begin_counting(settings.pool, worker.name, ledger)
    context, budget = SetupContext(locations=settings.locations()), _model_budget(settings, worker)
    tuners = Tuners(ledger.profiles, worker.device)
    heartbeat.batches = tuners.choices
    limits = Limits(settings.row_cache_mb * MIB, settings.row_cache_rows)
    bench = Bench(
        worker=worker.name,
        pool=settings.pool,
        ledger=ledger,
        workspace=workspace,
        heartbeat=heartbeat,
        shelf=JobShelf(workspace),
        registry=registry,
        operators=OperatorCache(worker.device, context, budget=budget, on_change=queues.follow, meter=counts.models),
        engine=Engine(
            DeviceLock(),
            watchdog=Watchdog(settings.batch_timeout_s, note),
            memory=memory_of(worker.device),
            trace=counts.recorder(settings.trace, worker.name),
        ),
        tuners=tuners,
        meter=counts.attempts,
        rows=RowCache(ledger.row_cache, workspace.blobs, limits, registry),
        usage=Meter(),
        price_nano=hourly_price_nano(settings, identity),
    )
    return bench, queues


def _describe(settings: WorkerSettings, identity: SlotIdentity, registry: OperatorRegistry) -> WorkerInfo:
    return WorkerInfo(
        **identity.model_dump(),
        pool=settings.pool,
        operators=[definition.name for definition in registry],
        shards_at_once=settings.shards_at_once,
        pid=os.getpid(),
        started_at=time.time(),
        has_room=True,
    )


def _model_budget(settings: WorkerSettings, worker: WorkerInfo) -> int:
    """The bytes that models may take in this process."""
    if settings.model_memory_mb:
        return settings.model_memory_mb * MIB
    return default_budget(worker.memory_bytes, settings.slots_per_device)
