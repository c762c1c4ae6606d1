"""A planner over a ledger, as a leading coordinator has it, and the fleet that it plans for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.fleet import WorkerInfo
from batchmill.operators.contract import OperatorInfo
from batchmill.workspace import Workspace
from batchmill_coordinator.fleet.fleet_view import FleetView
from batchmill_coordinator.results.resuming.resumption import Resumption
from batchmill_coordinator.roles.planner import Planner
from support.hand_clock import HandClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.clock import Clock
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.settings import CoordinatorSettings
    from batchmill.sources.base import Source

FLEET_TTL_S = 600.0


def announce_worker(ledger: Ledger, *, shards_at_once: int = 2) -> None:
    """Enter a worker with the operator `echo` into the fleet; it stays for `FLEET_TTL_S`."""
    worker = WorkerInfo(
        name="cpu0@here-1",
        pool="default",
        device="cpu",
        operators=["echo"],
        shards_at_once=shards_at_once,
        pid=1,
        started_at=1.0,
    )
    ledger.fleet.announce(worker, [OperatorInfo(name="echo", params_schema={})], FLEET_TTL_S, changed=True)


def planner_over(
    ledger: Ledger,
    settings: CoordinatorSettings,
    open_source: Callable[[JobRecord, int], Source],
    wake: Callable[[], None] | None = None,
    clock: Clock | None = None,
) -> Planner:
    """A planner that steps when a test says so. open_source: the source of a stage of a job. wake: by streams.

    clock: by which it looks at the fleet again.
    """
    fleet = FleetView(ledger, clock or HandClock())
    resumption = Resumption(ledger, Workspace.open(settings))
    return Planner(ledger, fleet, open_source, resumption, settings, wake or (lambda: None))
