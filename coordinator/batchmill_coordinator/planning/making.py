"""Makes a plan from the rounds over its sample, and from what ledger and workers know of the operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.insights.plans import WORKERS, PlanDeadline, PlannedDevice, PlannedTime, PlanState
from batchmill_coordinator.fleet.device_paces import DevicePaces, relative_times
from batchmill_coordinator.planning import arithmetic
from batchmill_coordinator.planning.plans import seconds_left, workers_of
from batchmill_coordinator.planning.record import read_record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.fleet import BatchChoice
    from batchmill.insights.plans import Plan, PlannedStage, PlanOutcome
    from batchmill.jobs.job import StageSpec
    from batchmill.ledger import Ledger
    from batchmill_coordinator.fleet.device_paces import BatchProfile
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.planning.record import PlanRecord

PAST_PAGE = 100


class PlanMaker:
    """Makes plans."""

    def __init__(self, ledger: Ledger, fleet: FleetView, currency: str, shard_target_s: float) -> None:
        self._ledger = ledger
        self._fleet = fleet
        self._currency = currency
        self._shard_target_s = shard_target_s
        self._paces = DevicePaces(ledger, fleet)

    def make(self, record: PlanRecord, tenant: str) -> Plan:
        """Return the plan of a record whose rounds are over."""
        plan, rounds = record.plan, record.rounds
        specs = list(record.request.model_copy(update={"sink": None}).stage_specs())
        rows = plan.rows
        readable = rows * (record.read - record.unreadable) / max(record.read, 1)
        outcomes = self._outcomes(tenant)
        workers = workers_of(record, self._fleet)
        shard_rows = arithmetic.shard_rows(rounds, round(readable), max(workers, 1), self._shard_target_s)
        work = arithmetic.row_work(rounds, outcomes, shard_rows, record.alike).scaled(readable)
        profiles = [self._paces.profiles(stage) for stage in specs]
        stages = arithmetic.planned_stages(specs, rounds, round(readable), work.value)
        by_pool: dict[str, float] = {}
        for stage in stages:
            by_pool[stage.pool] = by_pool.get(stage.pool, 0.0) + stage.seconds
        made = plan.model_copy(
            update={
                "state": PlanState.READY,
                "sampled_rows": sum(one.rows for one in rounds),
                "work": work,
                "work_by_pool": by_pool,
                "load_s": max(one.load_us for one in rounds) / 1e6 or self._load_s(specs),
                "start_s": arithmetic.start_s(rounds, workers),
                "cost": work.scaled(arithmetic.row_cost(rounds)),
                "currency": self._currency,
                "workers": workers,
                "stages": self._with_batches(stages, profiles),
                "errors": arithmetic.errors(rounds) | ({"unreadable": record.unreadable} if record.unreadable else {}),
                "devices": _devices(profiles),
                "past": arithmetic.past(outcomes),
                "notes": [*plan.notes, *_notes(record)],
            }
        )
        numbers = sorted({*WORKERS, *([workers] if workers else [])})
        times = [PlannedTime(workers=number, seconds=made.seconds_with(number)) for number in numbers]
        return made.model_copy(update={"times": times, "deadline": self._deadline(record, made, workers)})

    def _deadline(self, record: PlanRecord, made: Plan, workers: int) -> PlanDeadline | None:
        left_s = seconds_left(record.request, self._ledger.now_ms() / 1000)
        if left_s is None:
            return None
        is_possible = workers > 0 and made.seconds_with(workers).low <= left_s
        return PlanDeadline(left_s=left_s, is_possible=is_possible, workers=made.workers_within(left_s))

    def _outcomes(self, tenant: str) -> list[PlanOutcome]:
        """Return what the jobs of the tenant's latest plans took, the latest first."""
        found, _ = self._ledger.plans.page(tenant, PAST_PAGE)
        plans = (read_record(document).plan for document in found)
        return [plan.outcome for plan in plans if plan.outcome is not None]

    def _load_s(self, specs: list[StageSpec]) -> float:
        """Return how long workers took to load the slowest of their models: the best that is known."""
        pools = self._fleet.pools()
        return max(
            (one.load_s for spec in specs if spec.pool in pools for one in pools[spec.pool].members), default=0.0
        )

    def _with_batches(self, stages: list[PlannedStage], profiles: list[dict[str, BatchProfile]]) -> list[PlannedStage]:
        """Add how large batches were, and how much memory they took."""
        chosen: dict[tuple[str, str], BatchChoice] = {}
        for worker in self._ledger.fleet.workers(self._ledger.now_ms()):
            for one in worker.batches:
                chosen.setdefault((worker.pool, one.operator), one)
        found = []
        for stage, known in zip(stages, profiles, strict=True):
            peaks = [peak for profile in known.values() for _, peak in profile.peaks]
            batch = chosen.get((stage.pool, stage.operator))
            update: dict[str, float | None] = {"peak_bytes": round(max(peaks)) if peaks else None}
            if batch is not None:
                update |= {"batch_rows": batch.rows, "batch_units": batch.units}
            found.append(stage.model_copy(update=update))
        return found


def _devices(profiles: list[dict[str, BatchProfile]]) -> list[PlannedDevice]:
    """Compare the types of devices that have run all operators, by the sum of what each takes there."""
    relative = [relative_times({name: one.timings for name, one in known.items()}) for known in profiles]
    common = set.intersection(*(set(one) for one in relative)) if relative else set()
    sums: Mapping[str, float] = {device: sum(one[device] for one in relative) for device in common}
    fastest = min(sums.values(), default=1.0)
    ordered = sorted(sums.items(), key=lambda item: item[1])
    return [PlannedDevice(device_type=device, relative_s=took / fastest) for device, took in ordered]


def _notes(record: PlanRecord) -> list[str]:
    notes = []
    if record.request.sink is not None:
        notes.append("The time of writing rows into the sink is not counted.")
    stages = record.request.stages or ()
    if record.request.cache or any(stage.cache for stage in stages):
        notes.append("Rows that the row cache knows are not counted as such.")
    if len(record.rounds) < 2:
        notes.append("There are too few rows for more than one round of the sample: the intervals are wide.")
    return notes
