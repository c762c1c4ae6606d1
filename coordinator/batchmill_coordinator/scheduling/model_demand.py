"""How much work the live jobs of a pool have for each model."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from batchmill.jobs.job import JobState
from batchmill.ledger.formats.record import JobStage
from batchmill.operators.model_key import model_key
from batchmill_coordinator.fleet.pools import EMPTY
from batchmill_coordinator.scheduling.placement import Demand

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from batchmill.ledger.formats.record import JobRecord, StageKey, StageRecord
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.fleet.pools import PoolView
    from batchmill_coordinator.scheduling.pace import ModelPaces

MAX_KNOWN_MODELS = 20_000  # before all are forgotten
FIRST_SHARD_S = 1.0
"""Assumed run time of a shard while none of its stage is done, if there are several. A stage of one shard is small."""


class ModelNames:
    """The model keys of stages, each computed once."""

    def __init__(self, fleet: FleetView) -> None:
        self._fleet = fleet
        self._known: dict[tuple[StageKey, str], str] = {}  # by stage and revision of its operator

    def of(self, stages: Iterable[JobStage]) -> dict[StageKey, str]:
        """Return, by stage, the key of its model; the operator's name where no worker has announced the operator."""
        if len(self._known) > MAX_KNOWN_MODELS:
            self._known.clear()
        return {one.key: self._of(one) for one in stages}

    def loading(self, record: JobRecord, pools: Mapping[str, PoolView]) -> dict[int, int]:
        """Return, by each of the `starting` stages, how many workers of its pool load its model now."""
        stages = starting(record)
        models = self.of(stages)
        return {
            one.stage.number: sum(
                models[one.key] in worker.loading for worker in pools.get(one.spec.pool, EMPTY).members
            )
            for one in stages
        }

    def _of(self, one: JobStage) -> str:
        operator = self._fleet.operator(one.spec.operator)
        if operator is None:
            return one.spec.operator
        revision = one.stage.revision or operator.revision
        known = (one.key, revision)
        if known not in self._known:
            self._known[known] = model_key(operator, one.spec.params, revision)
        return self._known[known]


def starting(record: JobRecord) -> list[JobStage]:
    """Return the stages of which shards are at work and no row is settled yet."""
    at_work = (JobStage(record, stage) for stage in record.stages if stage.shards_running)
    together = (JobStage(record, stage) for one in at_work for stage in one.together)
    return [one for one in together if not one.stage.rows_done + one.stage.rows_dead]


def demands_of(
    stages: Iterable[JobStage], due: set[StageKey], models: dict[StageKey, str], paces: ModelPaces, now_s: float
) -> list[Demand]:
    """Return the demand for each model of these stages; `due` are those with shards that may be queued now."""
    by_model: dict[str, list[JobStage]] = defaultdict(list)
    of_job: dict[str, set[str]] = defaultdict(set)
    for one in stages:
        by_model[models[one.key]].append(one)
        of_job[one.job.id].add(models[one.key])
    return [_demand(model, those, due, of_job, paces, now_s) for model, those in by_model.items()]


def _demand(
    model: str,
    stages: list[JobStage],
    due: set[StageKey],
    of_job: dict[str, set[str]],
    paces: ModelPaces,
    now_s: float,
) -> Demand:
    wanting = [one for one in stages if one.key in due and one.job.state is JobState.RUNNING]
    backlog = sum(_backlog(one.stage) for one in wanting)
    since_s = min((one.waiting_since_ms for one in wanting), default=now_s * 1000) / 1000
    return Demand(
        model=model,
        in_flight=sum(one.stage.shards_in_flight for one in stages),
        backlog=backlog,
        work_s=sum(_backlog(one.stage) * _shard_s(one.stage) for one in wanting),
        drain_s=paces.drain_s(model, backlog, now_s),
        waited_s=paces.waited_s(model, since_s, now_s),
        priority=max((one.job.spec.priority for one in stages), default=0),
        linked=frozenset.intersection(*(frozenset(of_job[one.job.id]) for one in wanting)) - {model}
        if wanting
        else frozenset(),
    )


def _backlog(stage: StageRecord) -> int:
    return stage.shards_live - stage.shards_in_flight


def _shard_s(stage: StageRecord) -> float:
    if stage.shards_done:
        return stage.busy_us / 1e6 / stage.shards_done
    return FIRST_SHARD_S if stage.shards_planned > 1 else 0.0
