"""The journal of trials: what workers have tried of each operator, bounded, and what later jobs start from."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from batchmill.insights.trials import Trial
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from batchmill.ledger.scripting.connection import Store

log = logging.getLogger(__name__)

MAX_TRIALS = 20
MAX_NAMES = 300

_TRIALS = TypeAdapter(list[Trial])


class TrialLedger:
    """The latest `MAX_TRIALS` of each of `MAX_NAMES` operators; the one written longest ago makes room.

    A name has an operator with its version and parameters, and a type of device, as that of a batch profile does.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def keep(self, name: str, trial: Trial) -> None:
        """Keep a trial, in place of what was kept of it."""
        calls.trial(
            self._store,
            name=name,
            trial_id=trial.id,
            trial=trial.model_dump_json(exclude_none=True),
            max_trials=MAX_TRIALS,
            max_names=MAX_NAMES,
        )

    def of(self, name: str) -> list[Trial]:
        """Return the trials of that name, the oldest first."""
        with redis_errors():
            found: bytes | None = self._store.redis.hget(self._keys.trials(), name)
        return _parsed(name, found) if found else []

    def read(self) -> list[Trial]:
        """Return all trials, the latest first; those of a name that cannot be read are left out."""
        with redis_errors():
            found = self._store.redis.hgetall(self._keys.trials())
        trials = [one for name, text in found.items() for one in _parsed(name.decode(), text)]
        return sorted(trials, key=lambda one: (-one.updated_at, one.id))


def _parsed(name: str, text: bytes) -> list[Trial]:
    try:
        return _TRIALS.validate_json(text)
    except ValidationError as error:
        log.error("the trials of %s are left out, for they cannot be read: %.300s", name, error)
        return []
