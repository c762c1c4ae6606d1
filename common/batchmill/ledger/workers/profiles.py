"""What workers have learned about batches, shared so that a new one starts where the others are."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from batchmill.jobs.stage_cost import StageCost, stage_cost_name
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import literally, redis_errors

if TYPE_CHECKING:
    from batchmill.jobs.job import StageSpec
    from batchmill.ledger.scripting.connection import Store

MAX_PROFILES = 1000


class ProfileLedger:
    """Profiles by name, as text of at most some kilobytes; the latest `MAX_PROFILES` are kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def read(self, name: str) -> bytes | None:
        """The profile of that name, or None."""
        with redis_errors():
            found: bytes | None = self._store.redis.hget(self._keys.profiles(), name)
        return found

    def beginning_with(self, name: str) -> dict[str, bytes]:
        """Return the profiles whose names begin so, by name."""
        with redis_errors():
            found = self._store.redis.hscan_iter(self._keys.profiles(), f"{literally(name)}*", count=MAX_PROFILES)
            return {key.decode(): value for key, value in found}

    def cost_of(self, stage: StageSpec, version: str) -> StageCost | None:
        """What a row of a stage costs, by a version of its operator; None if it is not known."""
        found = self.read(stage_cost_name(stage, version))
        with suppress(ValueError):
            return None if found is None else StageCost.parse(found)
        return None

    def write(self, name: str, profile: str) -> None:
        """Keep a profile in place of the one of that name; the one written longest ago makes room."""
        calls.profile(self._store, name=name, profile=profile, max_profiles=MAX_PROFILES)
