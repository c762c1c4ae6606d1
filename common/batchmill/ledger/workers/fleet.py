"""Workers and operators in the ledger: who is there, and what they can do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from batchmill.fleet import WorkerInfo
from batchmill.ledger.formats.documents import readable, write_document
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors
from batchmill.operators.contract import OperatorInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.ledger.scripting.connection import Store


class FleetLedger:
    """The presence of workers, and the operators they have announced."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def announce(
        self, worker: WorkerInfo, operators: Sequence[OperatorInfo], ttl_s: float, *, changed: bool = False
    ) -> None:
        """Note that a worker is there for the next `ttl_s`, and what its operators are (none: as before).

        changed: what it has loaded is not what it was; publishes an event for those who wait for that.
        """
        calls.announce(
            self._store,
            worker=worker.name,
            description=worker.model_dump_json(),
            ttl_ms=int(ttl_s * 1000),
            changed=changed,
            announced=[calls.Announced(one.name, write_document(one, f"operator {one.name!r}")) for one in operators],
        )

    def deregister(self, name: str) -> None:
        """Remove a worker that ends."""
        calls.deregister(self._store, worker=name)

    def workers(self, now_ms: int) -> list[WorkerInfo]:
        """The workers that are there, by name."""
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(self._keys.workers())
            pipe.zrangebyscore(self._keys.workers_seen(), now_ms, "+inf")
            described, present = pipe.execute()
        found = {name: described[name] for name in sorted(present) if name in described}
        return [*readable(WorkerInfo.model_validate_json, found, "worker")]

    def operator(self, name: str) -> OperatorInfo | None:
        """An operator that some worker has announced, or None."""
        with redis_errors():
            announced = self._store.redis.hget(self._keys.operators(), name)
        found = readable(_operator, {name.encode(): announced} if announced else {}, "operator")
        return next(iter(found), None)

    def operators(self) -> list[OperatorInfo]:
        """All operators that were announced, by name."""
        with redis_errors():
            announced = self._store.redis.hgetall(self._keys.operators())
        return [*readable(_operator, dict(sorted(announced.items())), "operator")]


def _operator(text: bytes) -> OperatorInfo:
    return OperatorInfo.model_validate(json.loads(text))
