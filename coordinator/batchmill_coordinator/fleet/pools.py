"""What the workers of each pool can take."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from batchmill.operators.contract import version_of
from batchmill_coordinator.fleet.worker_capacity import WorkerCapacity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from batchmill.fleet import WorkerInfo
    from batchmill.jobs.job import StageSpec
    from batchmill.ledger.formats.record import StageRecord


def _is_bound_to(stage: StageRecord, revision: str) -> bool:
    """Whether a worker with this revision of a stage's operator may run it; by its version until the first claim."""
    if stage.revision or not stage.operator_version:
        return stage.revision in ("", revision)
    return version_of(revision) == stage.operator_version


@dataclass(frozen=True, slots=True)
class PoolView:
    """The workers of one pool, taken together."""

    workers: int
    capacity: int  # shards they take at once
    operators: frozenset[str]  # what every one of them can run
    members: tuple[WorkerCapacity, ...] = ()  # each of them, for placing shards
    revisions: Mapping[str, frozenset[str]] = field(default_factory=dict)  # by operator, those that its workers have

    def can_run(self, stage: StageRecord) -> bool:
        """Return whether some worker has the operator of a stage, in the revision that the stage is bound to."""
        operator = stage.spec.operator
        known = self.revisions.get(operator)
        return operator in self.operators and (not known or any(_is_bound_to(stage, one) for one in known))

    @property
    def mixed(self) -> dict[str, list[str]]:
        """Return the operators that its workers have in several revisions, with these."""
        return {name: sorted(found) for name, found in sorted(self.revisions.items()) if len(found) > 1}

    @property
    def models(self) -> frozenset[str]:
        """Return the models that at least one worker has loaded or is loading: their queues are consumed."""
        return frozenset(model for worker in self.members for model in worker.models | worker.loading)

    @property
    def has_spare(self) -> bool:
        """Return whether at least one worker has memory for another model: the spare queue is consumed."""
        return any(worker.has_spare for worker in self.members)

    def slots_with(self, model: str) -> int:
        """Return how many shards the workers that have a model loaded take at once."""
        return sum(worker.slots for worker in self.members if model in worker.models)

    @property
    def window(self) -> int:
        """Return how many published messages may wait in Celery: enough that no worker waits for the next one."""
        return max(2, self.capacity // 2)

    @property
    def horizon(self) -> int:
        """Return how many shards of a job should be live: running, in Celery, and a few to choose from."""
        return self.capacity + self.window + 2


EMPTY = PoolView(0, 0, frozenset())


def view_pools(workers: Iterable[WorkerInfo]) -> dict[str, PoolView]:
    """Group workers into pools, by name."""
    members: dict[str, list[WorkerInfo]] = defaultdict(list)
    for worker in workers:
        members[worker.pool].append(worker)
    return {
        name: PoolView(
            workers=len(those),
            capacity=sum(worker.shards_at_once for worker in those),
            operators=frozenset.intersection(*(frozenset(worker.operators) for worker in those)),
            members=tuple(_capacity_of(worker) for worker in those),
            revisions=_revisions(those),
        )
        for name, those in members.items()
    }


def _capacity_of(worker: WorkerInfo) -> WorkerCapacity:
    return WorkerCapacity(
        name=worker.name,
        slots=worker.shards_at_once,
        models=frozenset(worker.models),
        loading=frozenset(worker.loading),
        has_spare=worker.has_room,
        load_s=worker.load_s,
        device_type=worker.device_type,
    )


def _revisions(workers: list[WorkerInfo]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for worker in workers:
        for operator, revision in worker.revisions.items():
            found[operator].add(revision)
    return {operator: frozenset(revisions) for operator, revisions in found.items()}


def what_pool_lacks(stage: StageSpec, pools: Mapping[str, PoolView]) -> str | None:
    """Say why no worker can run a stage, whatever the version of its operator, and what to do; None if one can."""
    pool, operator = stage.pool, stage.operator
    view = pools.get(pool, EMPTY)
    if view.workers == 0:
        return f"no worker of pool {pool!r} is running; start one with `batchmill worker --pool {pool}`"
    if operator not in view.operators:
        return (
            f"not every worker of pool {pool!r} has the operator {operator!r}; start them all with the same --operators"
        )
    return None


def why_no_worker(job_id: str, stage: StageRecord, pools: dict[str, PoolView]) -> str | None:
    """Say why a stage of a job cannot run in its pool, and what to do; None if it can."""
    pool, operator = stage.spec.pool, stage.spec.operator
    lacking = what_pool_lacks(stage.spec, pools)
    if lacking is not None:
        return lacking
    view = pools[pool]
    if not view.can_run(stage):
        there = ", ".join(sorted(view.revisions[operator]))
        revision, version = stage.revision, stage.operator_version
        began = f"began with version {revision}" if revision else f"was submitted for version {version}"
        return (
            f"it {began} of the operator {operator!r}, and the workers of pool {pool!r} "
            f"have {there}; start one with that version, or continue with theirs: `batchmill resume {job_id} "
            "--any-version`"
        )
    return None
