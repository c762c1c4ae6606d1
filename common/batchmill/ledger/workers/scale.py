"""How many workers each pool needs: decided by the leader, read by coordinators and supervisors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.errors import ServiceUnavailable
from batchmill.fleet import PoolScale
from batchmill.ledger.formats.documents import readable
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.ledger.scripting.connection import Store

SCALE_TTL_MS = 30_000
"""A decision that is older counts for nothing: no coordinator leads, or the leader cannot decide."""


class ScaleLedger:
    """The leader's decisions, and what the next ones are based on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def decisions(self) -> dict[str, PoolScale]:
        """Return the decisions by pool; none without a leader. Raises `ServiceUnavailable`."""
        return self._read() or {}

    def decision(self, pool: str) -> PoolScale | None:
        """Return the decision for a pool; None if it has neither workers nor work.

        Raises `ServiceUnavailable`, also when no decision is younger than `SCALE_TTL_MS`: nobody knows what is needed,
        which is not the same as nothing.
        """
        found = self._read()
        if found is None:
            raise ServiceUnavailable(
                "how many workers are needed is not known: no coordinator has decided it for 30 s.",
                hint="Keep the workers that run. See `batchmill info` and the coordinators' logs.",
            )
        return found.get(pool)

    def memories(self) -> dict[str, str]:
        """Return by pool what was kept for the next decision."""
        with redis_errors():
            found = self._store.redis.hgetall(self._keys.scale_memory())
        return {pool.decode(): memory.decode() for pool, memory in found.items()}

    def keep(self, epoch: int, decisions: Mapping[str, PoolScale], memories: Mapping[str, str]) -> bool:
        """Keep the decisions, and what the next ones are based on; False for a deposed leader."""
        pools = [
            calls.ScaledPool(pool, decisions[pool].model_dump_json() if pool in decisions else "", memory)
            for pool, memory in memories.items()
        ]
        answer = calls.keep_scale(self._store, epoch=epoch, ttl_ms=SCALE_TTL_MS, pools=pools)
        return answer is calls.KeepScaleAnswer.OK

    def _read(self) -> dict[str, PoolScale] | None:
        with redis_errors():
            found = self._store.redis.hgetall(self._keys.scale())
        if not found:
            return None
        texts = {pool: text for pool, text in found.items() if pool}
        return {scale.pool: scale for scale in readable(PoolScale.model_validate_json, texts, "scale")}
