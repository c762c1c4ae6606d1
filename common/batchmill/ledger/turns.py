"""Turns: what only one of the service's processes and threads does at a time."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from redis.exceptions import LockError

from batchmill.errors import ServiceUnavailable
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.ledger.scripting.connection import Store

TURN_S = 120.0
"""A process that has ended in its turn keeps others waiting for this long."""


class TurnLedger:
    """Turns by name, for what a request waits for. Not for the work of the leader, which has an epoch."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @contextmanager
    def take(self, name: str) -> Iterator[bool]:
        """Hold a turn while the context lasts, for `TURN_S` at most. Yields False if somebody else has it.

        Raises `ServiceUnavailable`.
        """
        lock = self._store.redis.lock(self._store.keys.turn(name), timeout=TURN_S, blocking=False)
        with redis_errors():
            has_turn = lock.acquire()
        try:
            yield has_turn
        finally:
            if has_turn:
                with suppress(ServiceUnavailable), redis_errors(), suppress(LockError):  # otherwise it ends by itself
                    lock.release()
