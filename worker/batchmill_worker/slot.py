"""A device process: `python -m batchmill_worker.slot FOLDER IDENTITY` runs shards until it is told to stop.

The folder is shared with the supervisor, the identity is a `SlotIdentity` in JSON. The environment and the cores are
set before this file is read.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from batchmill.errors import BatchmillError, InvalidOperator, InvalidSettings, MissingExtra, ServiceUnavailable
from batchmill.job import WorkerInfo
from batchmill.ledger import Ledger
from batchmill.ledger.row_cache import Limits
from batchmill.logs import configure_logging
from batchmill.settings import WorkerSettings
from batchmill.workspace import Workspace
from batchmill_worker.attempt import AttemptRunner, Bench
from batchmill_worker.celery_app import consume, create_celery_app
from batchmill_worker.context import SetupContext
from batchmill_worker.device import DeviceLock, memory_of
from batchmill_worker.devices.placement import SlotIdentity
from batchmill_worker.engine import Engine
from batchmill_worker.jobs import JobShelf
from batchmill_worker.leases import Heartbeat
from batchmill_worker.loading import load_operators
from batchmill_worker.meter import Meter
from batchmill_worker.metering.process import begin_counting
from batchmill_worker.model_memory import MIB, default_budget
from batchmill_worker.model_queues import ModelQueues
from batchmill_worker.operator_cache import OperatorCache
from batchmill_worker.pricing import hourly_price_nano
from batchmill_worker.row_cache.cache import RowCache
from batchmill_worker.slot_files import SlotFiles
from batchmill_worker.tuners import Tuners
from batchmill_worker.watchdog import Watchdog

log = logging.getLogger(__name__)

EXIT_REFUSED = 2  # it cannot start, and starting it again would not help
EXIT_FAILED = 1
LEDGER_LOOK_S = 1.0


def run_slot(settings: WorkerSettings, identity: SlotIdentity, note: Path) -> None:
    """Run shards on one device until SIGTERM; `note` is the watchdog's file.

    Raises `InvalidOperator`, `InvalidSettings` or `StorageError`. Waits for a ledger that cannot be reached.
    """
    registry = load_operators(settings.operators)
    ledger, workspace = Ledger.open(settings), Workspace.open(settings)
    rows = RowCache(
        ledger.row_cache, workspace.blobs, Limits(settings.row_cache_mb * MIB, settings.row_cache_rows), registry
    )
    worker = WorkerInfo(
        **identity.model_dump(),
        pool=settings.pool,
        operators=[definition.name for definition in registry],
        shards_at_once=settings.shards_at_once,
        pid=os.getpid(),
        started_at=time.time(),
        has_room=True,
    )
    announced = [definition.announcement() for definition in registry]
    heartbeat = Heartbeat(ledger, worker, announced, settings.lease_ttl_s)
    queues = ModelQueues(settings.pool, heartbeat)
    budget = (
        settings.model_memory_mb * MIB
        if settings.model_memory_mb
        else default_budget(worker.memory_bytes, settings.slots_per_device)
    )
    context = SetupContext(locations=settings.locations())
    counts = begin_counting(settings.pool, worker.name, ledger)
    operators = OperatorCache(worker.device, context, budget=budget, on_change=queues.follow, meter=counts.models)
    tuners = Tuners(ledger.profiles, worker.device)
    heartbeat.batches = tuners.choices
    bench = Bench(
        worker=worker.name,
        pool=settings.pool,
        ledger=ledger,
        workspace=workspace,
        heartbeat=heartbeat,
        shelf=JobShelf(workspace),
        registry=registry,
        operators=operators,
        engine=Engine(
            DeviceLock(),
            watchdog=Watchdog(settings.batch_timeout_s, note),
            memory=memory_of(worker.device),
            trace=counts.recorder(settings.trace, worker.name),
        ),
        tuners=tuners,
        meter=counts.attempts,
        rows=rows,
        usage=Meter(),
        price_nano=hourly_price_nano(settings, identity),
    )
    app = create_celery_app(settings, registry, AttemptRunner(bench))
    _await_ledger(ledger)
    ledger.require_schema()
    heartbeat.start()
    try:
        consume(app, settings, worker.name, queues, on_shutdown=lambda: _drain(heartbeat, settings.drain_s))
    finally:
        heartbeat.stop()
        tuners.save(at_once=True)
        operators.close()
        ledger.close()


def _await_ledger(ledger: Ledger) -> None:
    """Wait until the ledger can be reached: starting the process anew would not bring it back sooner."""
    while True:
        try:
            ledger.ping()
            return
        except ServiceUnavailable as error:
            log.warning("waiting for the ledger: %s", error)
            time.sleep(LEDGER_LOOK_S)


def _drain(heartbeat: Heartbeat, drain_s: float) -> None:
    """Tell the attempts to stop at their next batch, and end this process if a batch does not end in time."""
    heartbeat.drain()

    def give_up() -> None:
        log.warning("a batch did not end within %.0f s of draining; its shard is left to the recoverer", drain_s)
        os._exit(1)

    timer = threading.Timer(drain_s, give_up)
    timer.daemon = True
    timer.start()


def main() -> None:
    """Run a slot from the command line; its settings come from the environment."""
    folder, described = sys.argv[1:]
    identity = SlotIdentity.model_validate_json(described)
    files = SlotFiles(Path(folder), identity.name)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until Celery has its own handler: leave in good order
    try:
        settings = WorkerSettings.load()
        configure_logging(settings, worker=identity.name)
        run_slot(settings, identity, files.note)
    except (InvalidSettings, InvalidOperator, MissingExtra) as error:
        files.refuse(error)
        sys.exit(EXIT_REFUSED)
    except BatchmillError as error:
        log.error("%s cannot start: %s", identity.name, error)
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
