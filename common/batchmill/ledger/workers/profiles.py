"""What workers have learned about batches, shared so that a new one starts where the others are."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from batchmill.jobs.stage_cost import StageCost, stage_cost_name
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    def names(self) -> list[str]:
        """Return the names of all profiles, sorted."""
        with redis_errors():
            return sorted(name.decode() for name in self._store.redis.hkeys(self._keys.profiles()))

    def read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        """Return the profiles of those of the names that have one, by name."""
        if not names:
            return {}
        with redis_errors():
            found = self._store.redis.hmget(self._keys.profiles(), names)
        return {name: value for name, value in zip(names, found, strict=True) if value is not None}

    def cost_of(self, stage: StageSpec, version: str) -> StageCost | None:
        """What a row of a stage costs, by a version of its operator; None if it is not known."""
        found = self.read(stage_cost_name(stage, version))
        with suppress(ValueError):
            return None if found is None else StageCost.parse(found)
        return None

    def write(self, name: str, profile: str) -> None:
        """Keep a profile in place of the one of that name; the one written longest ago makes room."""
        calls.profile(self._store, name=name, profile=profile, max_profiles=MAX_PROFILES)
