"""All leases at once, in the ledger; `shards.py` has those of single attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.ledger.scripting import calls

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchmill.ledger.formats.record import StageKey
    from batchmill.ledger.scripting.connection import Store

MISSED_SHARE = 2 / 3
"""Workers renew every third of a lease: who could not for two thirds of it may have lost it without being dead."""


class LeaseLedger:
    """What concerns all leases at once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def extend_all(self, epoch: int, ttl_s: float) -> int:
        """Note that the leases are looked at; returns how many that had run out are extended (`extend_all_leases.lua`).

        ttl_s: how long a lease lasts. To be called before each look for leases that ran out; a deposed leader extends
        none.
        """
        ttl_ms = int(ttl_s * 1000)
        reply = calls.extend_all_leases(self._store, epoch=epoch, lease_ms=ttl_ms, missed_ms=int(ttl_ms * MISSED_SHARE))
        return reply.extended

    def restart_paces(self, stages: Iterable[StageKey], epoch: int) -> None:
        """Measure the pace of these stages anew: nothing was done while the service was away."""
        calls.restart_paces(self._store, epoch=epoch, stages=[calls.PacedStage(*key) for key in stages])
