"""Workers and operators in the ledger: who is there, and what they can do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from batchmill.job import WorkerInfo
from batchmill.ledger.connection import reaching_redis
from batchmill.operators.contract import OperatorInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.ledger.connection import Store


class FleetLedger:
    """The presence of workers, and the operators they have announced."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def announce(
        self, worker: WorkerInfo, operators: Sequence[OperatorInfo], ttl_s: float, *, changed: bool = False
    ) -> None:
        """Say that a worker is there for the next `ttl_s`, and what its operators are (none: as before).

        changed: what it has loaded is not what it was, and those who wait for that are told.
        """
        announced: list[str] = []
        for operator in operators:
            announced += [operator.name, operator.model_dump_json()]
        self._store.run(
            "announce",
            [self._keys.workers(), self._keys.workers_seen(), self._keys.operators()],
            [
                self._store.now_ms,
                worker.name,
                worker.model_dump_json(),
                int(ttl_s * 1000),
                self._keys.events(),
                int(changed),
                *announced,
            ],
        )

    def leave(self, name: str) -> None:
        """Say that a worker goes."""
        self._store.run("leave", [self._keys.workers(), self._keys.workers_seen()], [name])

    def workers(self, now_ms: int) -> list[WorkerInfo]:
        """The workers that are there, by name."""
        with reaching_redis(), self._store.redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(self._keys.workers())
            pipe.zrangebyscore(self._keys.workers_seen(), now_ms, "+inf")
            described, present = pipe.execute()
        return [WorkerInfo.model_validate_json(described[name]) for name in sorted(present) if name in described]

    def operator(self, name: str) -> OperatorInfo | None:
        """An operator that some worker has announced, or None."""
        with reaching_redis():
            announced = self._store.redis.hget(self._keys.operators(), name)
        return OperatorInfo.model_validate(json.loads(announced)) if announced else None

    def operators(self) -> list[OperatorInfo]:
        """All operators that were announced, by name."""
        with reaching_redis():
            announced = self._store.redis.hgetall(self._keys.operators())
        return [OperatorInfo.model_validate(json.loads(announced[name])) for name in sorted(announced)]
