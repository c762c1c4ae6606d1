"""Leases as a whole, in the ledger: those of single attempts are `shards.py`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchmill.ledger.connection import Store

MISSED_SHARE = 2 / 3
"""Workers renew every third of a lease: who could not for two thirds of it may have lost it without being dead."""


class LeaseLedger:
    """What concerns all leases at once."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def reprieve(self, epoch: int, ttl_s: float) -> int:
        """Note that the leases are looked at; returns how many that had run out begin anew, see `reprieve.lua`.

        ttl_s: how long a lease lasts. To be called before each look for leases that ran out; of a deposed leader
        nothing comes.
        """
        keys = self._store.keys
        ttl_ms = int(ttl_s * 1000)
        told = self._store.run(
            "reprieve",
            [keys.leases(), keys.leases_seen(), keys.leader()],
            [self._store.now_ms, epoch, ttl_ms, int(ttl_ms * MISSED_SHARE)],
        )
        return 0 if told == b"deposed" else int(told)
