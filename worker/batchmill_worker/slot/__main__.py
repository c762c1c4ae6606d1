"""A device process: `python -m batchmill_worker.slot FOLDER IDENTITY` runs shards until it is asked to stop.

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
from typing import TYPE_CHECKING

from batchmill.errors import (
    BatchmillError,
    InvalidOperator,
    InvalidSettings,
    LedgerRefused,
    MissingExtra,
    ServiceUnavailable,
)
from batchmill.processes.descendants import MARK, end_descendants
from batchmill.settings import WorkerSettings
from batchmill.telemetry.logs import configure_logging
from batchmill_worker.devices.placement import SlotIdentity
from batchmill_worker.slot.celery_app import consume, create_celery_app
from batchmill_worker.slot.process_protection import protect_process
from batchmill_worker.slot.wiring import build_slot_context
from batchmill_worker.supervisor.slot_files import SlotFiles

if TYPE_CHECKING:
    from batchmill_worker.slot.wiring import SlotContext

log = logging.getLogger(__name__)

EXIT_REFUSED = 2  # it cannot start, and a restart would not help
EXIT_FAILED = 1
LEDGER_POLL_INTERVAL_S = 1.0


def run_slot(settings: WorkerSettings, identity: SlotIdentity, board_file: Path) -> None:
    """Run shards on one device until SIGTERM. board_file: see `build_slot_context`.

    Raises `InvalidOperator`, `InvalidSettings` or `StorageError`. Waits for a ledger that cannot be reached.
    """
    context = build_slot_context(settings, identity, board_file)
    app = create_celery_app(settings, context.registry, context.runner)
    _await_ledger(context)
    try:
        consume(
            app,
            settings,
            context.worker,
            context.queues,
            on_shutdown=lambda: _drain(context, settings.drain_s),
        )
    finally:
        context.heartbeat.stop()
        context.close()


def _await_ledger(context: SlotContext) -> None:
    """Wait until the ledger knows this worker: a restart of this process would not make it available sooner.

    Raises `InvalidSettings` when Redis refuses what the worker needs or the blob store is not the ledger's, and
    `StorageError` when the blob store cannot be used.
    """
    while True:
        try:
            context.ledger.require_access()
            context.ledger.require_schema()
            context.store_guard.require_at_start()
            context.heartbeat.start()
            context.lane.start()
            return
        except LedgerRefused as error:
            raise InvalidSettings(error.message, hint=error.hint) from error
        except ServiceUnavailable as error:
            log.warning("waiting for the ledger: %s", error)
            time.sleep(LEDGER_POLL_INTERVAL_S)


def _drain(context: SlotContext, drain_s: float) -> None:
    """Stop the attempts at their next batch, and end this process if a batch does not end in time."""
    context.heartbeat.drain()
    context.lane.drain()

    def give_up() -> None:
        log.warning("a batch did not end within %.0f s of draining; the recoverer requeues its shard", drain_s)
        os._exit(1)

    timer = threading.Timer(drain_s, give_up)
    timer.daemon = True
    timer.start()


class _StopRequested(BaseException):
    """SIGTERM has arrived before Celery has its own handler; no code of a user's may take it for an error."""


def _stop_starting(*_: object) -> None:
    raise _StopRequested


def _run(folder: Path, identity: SlotIdentity) -> int:
    """Run a slot, whose settings come from the environment, and return the exit code of its process."""
    files = SlotFiles(folder, identity.name)
    try:
        settings = WorkerSettings.load()
        configure_logging(settings, worker=identity.name, stream=protect_process())
        run_slot(settings, identity, files.board)
    except (InvalidSettings, InvalidOperator, MissingExtra) as error:
        if _is_stopped(error):
            return 0
        files.refuse(error)
        return EXIT_REFUSED
    except BatchmillError as error:
        if _is_stopped(error):
            return 0
        log.error("%s cannot start: %s", identity.name, error)
        return EXIT_FAILED
    except _StopRequested:
        return 0
    except BaseException as error:
        log.critical("the process ends by an error", exc_info=error)
        return EXIT_FAILED
    return 0


def _is_stopped(error: BaseException) -> bool:
    """Whether the signal interrupted an import, which reports it as its own failure."""
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__) is not None:
        causes.append(cause)
    return any(isinstance(one, _StopRequested) for one in causes)


def main() -> None:
    """Run a slot from the command line, and end the process at once: no thread of a user's code can hold it up."""
    folder, described = sys.argv[1:]
    mark = os.environ.get(MARK, "")
    signal.signal(signal.SIGTERM, _stop_starting)
    code = _run(Path(folder), SlotIdentity.model_validate_json(described))
    logging.shutdown()
    if mark:  # a supervisor has started it, at the head of a group of its own
        end_descendants(os.getpgrp(), mark)
    os._exit(code)


if __name__ == "__main__":
    main()
