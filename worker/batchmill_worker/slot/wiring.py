"""The wiring of a device process: builds its objects from its settings, once. Nothing else knows all of them."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.clock import SystemClock
from batchmill.fleet import WorkerInfo
from batchmill.jobs.cost import NANO
from batchmill.kept_results import JobResults
from batchmill.ledger import Ledger
from batchmill.ledger.workers.row_cache import Limits
from batchmill.storage.named_endpoints import NamedEndpoints
from batchmill.storage.named_stores import NamedStores
from batchmill.store_mark import StoreMark
from batchmill.workspace import Workspace
from batchmill_worker.backends.converted_models import ConvertedModels
from batchmill_worker.engine.batch_executor import BatchExecutor
from batchmill_worker.engine.controllers import ControllerCache
from batchmill_worker.engine.executor import Executors
from batchmill_worker.engine.request_executor import RequestExecutor
from batchmill_worker.engine.stage_costs import StageCosts
from batchmill_worker.engine.state_executor import StateExecutor
from batchmill_worker.engine.store_executor import StoreExecutor
from batchmill_worker.engine.trend_recorder import TrendRecorder
from batchmill_worker.metering.process import begin_counting
from batchmill_worker.models.model_memory import MIB, default_budget, slot_memory
from batchmill_worker.models.operator_cache import OperatorCache
from batchmill_worker.models.setup_context import SetupContext
from batchmill_worker.row_cache.cache import RowCache
from batchmill_worker.runtime.device import DeviceLock, memory_of
from batchmill_worker.runtime.device_time import DeviceTimeMeter
from batchmill_worker.runtime.hooks import HookGuard, HookLimits
from batchmill_worker.runtime.lane_traffic import LaneTraffic
from batchmill_worker.runtime.slot_board import Hook, SlotBoard
from batchmill_worker.slot.attempt.attempt_settler import AttemptSettler
from batchmill_worker.slot.attempt.attempt_store import AttemptStore
from batchmill_worker.slot.attempt.claimer import Claimer, ClaimTerms
from batchmill_worker.slot.attempt.reports import AttemptReports
from batchmill_worker.slot.attempt.runner import AttemptRunner
from batchmill_worker.slot.attempt.shard_computer import ShardComputer
from batchmill_worker.slot.attempt.shard_loader import ShardLoader
from batchmill_worker.slot.attempt.stage_runner import StageRunner
from batchmill_worker.slot.attempt.store_guard import StoreGuard
from batchmill_worker.slot.job_cache import JobFilesCache
from batchmill_worker.slot.lane.answering import LaneAnswers
from batchmill_worker.slot.lane.consumer import LaneConsumer, LanePlace
from batchmill_worker.slot.leases import Heartbeat
from batchmill_worker.slot.loading import load_operators
from batchmill_worker.slot.model_queues import ModelQueues
from batchmill_worker.slot.pricing import hourly_price_nano
from batchmill_worker.supervisor.slot_files import LeavingFile

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill.operators.registration import OperatorRegistry
    from batchmill.settings import WorkerSettings
    from batchmill.storage.blobs import BlobStore
    from batchmill_worker.devices.placement import SlotIdentity


@dataclass(frozen=True, slots=True)
class SlotContext:
    """What a device process is made of, as far as its main function starts, uses and closes it."""

    worker: str
    ledger: Ledger
    registry: OperatorRegistry
    store_guard: StoreGuard
    heartbeat: Heartbeat
    queues: ModelQueues
    runner: AttemptRunner
    operators: OperatorCache
    controllers: ControllerCache
    lane: LaneConsumer

    def close(self) -> None:
        """Answer what is in hand, share what was learned, tear the models down, and close the connections."""
        self.lane.stop()
        self.controllers.save(at_once=True)
        self.operators.close()
        self.ledger.close()


def build_slot_context(settings: WorkerSettings, identity: SlotIdentity, board_file: Path) -> SlotContext:
    """Build the objects of a device process from its settings. board_file: what the supervisor reads, see `SlotBoard`.

    Raises `InvalidOperator`, `InvalidSettings` or `StorageError`. The ledger need not be reachable yet.
    """
    board = SlotBoard(board_file)
    guard = HookGuard(board, HookLimits(settings.batch_timeout_s, settings.setup_limit_s))
    with guard.calling(Hook.IMPORT):
        registry = load_operators(settings.operators)
    ledger, workspace = Ledger.open(settings), Workspace.open(settings)
    worker = _describe(settings, identity, registry)
    meter, traffic = DeviceTimeMeter(), LaneTraffic()
    counts = begin_counting(settings.pool, worker.name, ledger, meter)
    trace = counts.recorder(settings.trace, worker.name)

    announced = [definition.announcement() for definition in registry]
    heartbeat = Heartbeat(ledger, worker, announced, settings.lease_ttl_s, meter, board)
    controllers = _controllers(settings, ledger, worker, traffic)
    heartbeat.batches, heartbeat.leaves_at = controllers.choices, LeavingFile(board_file.parent).read
    trends = TrendRecorder(ledger.trends, worker.device)
    heartbeat.on_beat = [trends.save, counts.time.write]
    queues = ModelQueues(settings.pool, heartbeat)
    operators = OperatorCache(
        worker.device,
        _setup_context(settings, workspace, worker, ledger),
        budget=_model_budget(settings, worker),
        on_change=queues.follow,
        metrics=counts.models,
        guard=guard,
    )
    device, clock, price_nano = DeviceLock(), SystemClock(), hourly_price_nano(settings, identity)
    requests = RequestExecutor(device, clock, trace, traffic.is_recent)
    batches = BatchExecutor(device, memory=memory_of(worker.device), trace=trace)
    states = StateExecutor(workspace.blobs, clock, trace)
    executors = Executors(batches, StoreExecutor(clock, trace), requests, states)
    urgent = BatchExecutor(device, memory=memory_of(worker.device), trace=trace, is_urgent=True)
    answers = LaneAnswers(urgent, requests, ControllerCache(ledger.profiles, worker.device))
    place = LanePlace(ledger.lane, worker.name, settings.pool, price_nano)
    lane = LaneConsumer(place, registry, operators, answers, meter, traffic)
    operators.listeners.append(lane.follow)

    blobs, job_files = workspace.blobs, JobFilesCache(workspace, ledger)
    row_cache = _row_cache(settings, ledger, blobs)
    terms = ClaimTerms(worker.name, settings.pool, price_nano)
    store = AttemptStore(ledger.shards, blobs, trace)
    store_guard = StoreGuard(StoreMark(ledger, blobs), clock)
    reports = AttemptReports(counts.attempts, ledger.log, worker.name)
    runner = AttemptRunner(
        store_guard,
        Claimer(ledger.shards, job_files, heartbeat, terms, trace),
        StageRunner(
            ShardLoader(job_files, blobs, registry, worker.name, trace, clock, settings.max_result_bytes),
            ShardComputer(executors, operators, controllers, row_cache, StageCosts(ledger.profiles), trends),
            store,
            reports,
            clock,
        ),
        AttemptSettler(ledger.shards, job_files, store, trace, settings.storage_wait_s),
        reports,
    )
    own = (store_guard, heartbeat, queues, runner, operators, controllers, lane)
    return SlotContext(worker.name, ledger, registry, *own)


def _controllers(settings: WorkerSettings, ledger: Ledger, worker: WorkerInfo, traffic: LaneTraffic) -> ControllerCache:
    journal = ledger.trials if settings.trials else None
    return ControllerCache(ledger.profiles, worker.device, is_interactive=traffic.is_recent, trials=journal)


def _row_cache(settings: WorkerSettings, ledger: Ledger, blobs: BlobStore) -> RowCache:
    return RowCache(ledger.row_cache, blobs, Limits(settings.row_cache_mb * MIB, settings.row_cache_rows))


def _setup_context(settings: WorkerSettings, workspace: Workspace, worker: WorkerInfo, ledger: Ledger) -> SetupContext:
    return SetupContext(
        settings.locations(),
        ConvertedModels(settings.converted_models_folder, settings.converted_models_mb * MIB),
        NamedStores.load(settings.stores),
        workspace.blobs,
        NamedEndpoints.load(settings.endpoints),
        slot_memory(worker.memory_bytes, settings.slots_per_device),
        ledger.endpoints,
        JobResults(ledger, workspace),
        devices=worker.device_count,
        device_share=1 / settings.slots_per_device,
    )


def _describe(settings: WorkerSettings, identity: SlotIdentity, registry: OperatorRegistry) -> WorkerInfo:
    return WorkerInfo(
        **identity.model_dump(),
        pool=settings.pool,
        operators=[definition.name for definition in registry],
        revisions={definition.name: definition.revision for definition in registry},
        shards_at_once=settings.shards_at_once,
        pid=os.getpid(),
        started_at=time.time(),
        has_room=True,
        price_per_hour=hourly_price_nano(settings, identity) / NANO,
    )


def _model_budget(settings: WorkerSettings, worker: WorkerInfo) -> int:
    """Return the bytes that models may take in this process."""
    if settings.model_memory_mb:
        return settings.model_memory_mb * MIB
    return default_budget(worker.memory_bytes, settings.slots_per_device)
