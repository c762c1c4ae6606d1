"""A device process: `python -m batchmill_worker.slot NAME DEVICE NOTE` runs shards until it is told to stop."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from pathlib import Path

from batchmill.errors import BatchmillError
from batchmill.job import WorkerInfo
from batchmill.ledger import Ledger
from batchmill.logs import configure_logging
from batchmill.settings import WorkerSettings
from batchmill.workspace import Workspace
from batchmill_worker.attempt import AttemptRunner, Bench
from batchmill_worker.celery_app import consume, create_celery_app
from batchmill_worker.context import SetupContext
from batchmill_worker.device import DeviceLock, memory_of
from batchmill_worker.engine import Engine
from batchmill_worker.jobs import JobShelf
from batchmill_worker.leases import Heartbeat
from batchmill_worker.loading import load_operators
from batchmill_worker.operator_cache import OperatorCache
from batchmill_worker.trace import NO_TRACE, FileRecorder
from batchmill_worker.tuners import Tuners
from batchmill_worker.watchdog import Watchdog

log = logging.getLogger(__name__)


def run_slot(settings: WorkerSettings, name: str, device: str, note: Path) -> None:
    """Run shards on one device until SIGTERM; `note` is the watchdog's file.

    Raises `InvalidOperator`, `InvalidSettings` or `ServiceUnavailable`.
    """
    registry = load_operators(settings.operators)
    ledger, workspace = Ledger.open(settings), Workspace.open(settings)
    worker = WorkerInfo(
        name=name,
        pool=settings.pool,
        device=device,
        operators=[definition.name for definition in registry],
        shards_at_once=settings.shards_at_once,
        pid=os.getpid(),
        started_at=time.time(),
    )
    announced = [definition.announcement() for definition in registry]
    heartbeat = Heartbeat(ledger, worker, announced, settings.lease_ttl_s)
    operators = OperatorCache(device, SetupContext(locations=settings.locations()))
    trace = FileRecorder(Path(settings.trace), name) if settings.trace else NO_TRACE
    tuners = Tuners(ledger.profiles, device)
    heartbeat.batches = tuners.choices
    bench = Bench(
        worker=name,
        pool=settings.pool,
        ledger=ledger,
        workspace=workspace,
        heartbeat=heartbeat,
        shelf=JobShelf(workspace),
        registry=registry,
        operators=operators,
        engine=Engine(
            DeviceLock(), watchdog=Watchdog(settings.batch_timeout_s, note), memory=memory_of(device), trace=trace
        ),
        tuners=tuners,
    )
    app = create_celery_app(settings, registry, AttemptRunner(bench))
    heartbeat.start()
    try:
        consume(app, settings, name, on_shutdown=lambda: _drain(heartbeat, settings.drain_s))
    finally:
        heartbeat.stop()
        tuners.save(at_once=True)
        operators.close()
        ledger.close()


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
    name, device, note = sys.argv[1:]
    try:
        settings = WorkerSettings.load()
        configure_logging(settings.log_level)
        run_slot(settings, name, device, Path(note))
    except BatchmillError as error:
        log.error("%s cannot start: %s", name, error)
        sys.exit(2)


if __name__ == "__main__":
    main()
