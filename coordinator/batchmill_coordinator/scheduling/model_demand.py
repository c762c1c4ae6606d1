"""How much work the live jobs of a pool have for each model."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from batchmill.job import JobState
from batchmill.operators.model_key import model_key
from batchmill_coordinator.scheduling.placement import Demand

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchmill.ledger import JobRecord
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.scheduling.pace import ModelPaces

MAX_KNOWN_MODELS = 20_000  # before all are forgotten
FIRST_SHARD_S = 1.0
"""Assumed run time of a shard while none of its job is done, if the job has several. A job of one shard is small."""


class ModelNames:
    """The model keys of jobs, each computed once."""

    def __init__(self, fleet: FleetView) -> None:
        self._fleet = fleet
        self._known: dict[tuple[str, str], str] = {}  # by job and version of its operator

    def of(self, records: Iterable[JobRecord]) -> dict[str, str]:
        """Return, by job, the key of its model; the operator's name where no worker has announced the operator."""
        if len(self._known) > MAX_KNOWN_MODELS:
            self._known.clear()
        return {record.id: self._of(record) for record in records}

    def _of(self, record: JobRecord) -> str:
        operator = self._fleet.operator(record.spec.operator)
        if operator is None:
            return record.spec.operator
        known = (record.id, operator.version)
        if known not in self._known:
            self._known[known] = model_key(operator, record.spec.params)
        return self._known[known]


def demands_of(
    records: Iterable[JobRecord], due: set[str], models: dict[str, str], paces: ModelPaces, now_s: float
) -> list[Demand]:
    """Return the demand for each model of these jobs; `due` are the jobs with shards that may be queued now."""
    by_model: dict[str, list[JobRecord]] = defaultdict(list)
    for record in records:
        by_model[models[record.id]].append(record)
    return [_demand(model, those, due, paces, now_s) for model, those in by_model.items()]


def _demand(model: str, records: list[JobRecord], due: set[str], paces: ModelPaces, now_s: float) -> Demand:
    wanting = [record for record in records if record.id in due and record.state is JobState.RUNNING]
    backlog = sum(_backlog(record) for record in wanting)
    since_s = min((_waiting_since_ms(record) for record in wanting), default=now_s * 1000) / 1000
    return Demand(
        model=model,
        in_flight=sum(record.shards_queued + record.shards_running for record in records),
        backlog=backlog,
        work_s=sum(_backlog(record) * _shard_s(record) for record in wanting),
        drain_s=paces.drain_s(model, backlog, now_s),
        waited_s=paces.waited_s(model, since_s, now_s),
        priority=max((record.spec.priority for record in records), default=0),
    )


def _backlog(record: JobRecord) -> int:
    return record.shards_live - record.shards_queued - record.shards_running


def _waiting_since_ms(record: JobRecord) -> float:
    return record.last_queued_at or record.created_at


def _shard_s(record: JobRecord) -> float:
    if record.shards_done:
        return record.busy_us / 1e6 / record.shards_done
    return FIRST_SHARD_S if record.shards_planned > 1 else 0.0
