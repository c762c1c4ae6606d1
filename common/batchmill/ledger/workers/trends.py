"""What jobs took of each operator on each type of device: a bounded history, which jobs that are deleted stay in."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from batchmill.jobs.frozen import Frozen
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchmill.ledger.scripting.connection import Store

log = logging.getLogger(__name__)

MAX_POINTS = 160
MAX_TRENDS = 300
_GAP = "\n"  # in no name of an operator, digest or device type


@dataclass(frozen=True, slots=True)
class TrendName:
    """What a history is about. params: a digest of the parameters."""

    operator: str
    params: str
    device_type: str


class StoredPoint(Frozen):
    """One job in a history. at: ms since the epoch. facts: JSON."""

    job: str
    at: int
    units: float
    useful_us: int
    padding_us: int
    idle_us: int
    facts: str


_POINTS = TypeAdapter(list[StoredPoint])


class TrendLedger:
    """The histories, at most `MAX_TRENDS` of `MAX_POINTS` jobs each; the one written longest ago makes room."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def add(
        self, name: TrendName, job: str, *, units: float, useful_us: int, padding_us: int, idle_us: int,
        facts: Mapping[str, str],
    ) -> None:  # fmt: skip
        """Add to what a job took."""
        calls.trend(
            self._store,
            name=_GAP.join((name.operator, name.params, name.device_type)),
            job=job,
            units=units,
            useful_us=useful_us,
            padding_us=padding_us,
            idle_us=idle_us,
            facts=json.dumps(dict(facts), sort_keys=True),
            max_points=MAX_POINTS,
            max_trends=MAX_TRENDS,
        )

    def read(self) -> Iterator[tuple[TrendName, list[StoredPoint]]]:
        """Yield all histories; one that cannot be read is left out."""
        with redis_errors():
            found = self._store.redis.hgetall(self._keys.trends())
        for name, text in sorted(found.items()):
            parts = name.decode().split(_GAP)
            try:
                points = _POINTS.validate_json(text)
            except ValidationError as error:
                log.error("the trend %s is left out, for it cannot be read: %.300s", parts[0], error)
                continue
            if len(parts) == 3:
                yield TrendName(*parts), points
