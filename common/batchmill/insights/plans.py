"""A plan: what a job will take, from a sample of its rows that workers have run, before it is submitted."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING

from batchmill.jobs.frozen import Frozen
from batchmill.jobs.job import JobError

if TYPE_CHECKING:
    from typing import Self

WORKERS = (1, 4, 8)
"""The numbers of workers that a plan is shown for, beside those that run."""


class PlanState(StrEnum):
    """The state of a plan."""

    SAMPLING = "sampling"
    """Workers run a sample of the rows."""
    READY = "ready"
    """It says what the job will take."""
    FAILED = "failed"
    """The sample could not be read or run."""


class Estimate(Frozen):
    """A quantity with an 80 % prediction interval."""

    value: float
    low: float
    high: float

    @classmethod
    def around(cls, value: float, spread: float) -> Self:
        """Return an estimate whose interval is log-normal. spread: half its width, of the logarithm."""
        return cls(value=value, low=value * math.exp(-spread), high=value * math.exp(spread))

    def scaled(self, factor: float, more: float = 0.0) -> Estimate:
        """Return it multiplied, plus an amount."""
        return Estimate(value=self.value * factor + more, low=self.low * factor + more, high=self.high * factor + more)

    def holds(self, actual: float) -> bool:
        """Return whether a value is in the interval."""
        return self.low <= actual <= self.high


class PlannedTime(Frozen):
    """How long the job takes with some workers in each of its pools."""

    workers: int
    seconds: Estimate


class PlannedStage(Frozen):
    """What one stage of the job takes."""

    name: str
    operator: str
    pool: str
    rows: float
    """Rows that it is given."""
    seconds: float
    """Time of devices."""
    failing: Estimate
    """Rows that will fail."""
    batch_rows: int | None = None
    """Rows of a batch, as the workers chose them last; None if they no longer say so."""
    batch_units: float | None = None
    """The same in units of the operator's cost: tokens, pixels or rows."""
    peak_bytes: int | None = None
    """The most memory of a device that a batch took; None if it is not measured there."""


class PlannedDevice(Frozen):
    """What the ledger knows of the job's operators on a type of device."""

    device_type: str
    relative_s: float
    """Time of the same batches, as a multiple of that on the fastest device that is known."""


class PlanDeadline(Frozen):
    """Whether the job will be done by its deadline."""

    left_s: float
    """Seconds until then, when the plan was made."""
    is_possible: bool
    """Whether the workers that run can hold it, at the lower end of the interval."""
    workers: int | None
    """How many workers in each pool hold it; None: no number does."""


class PlanOutcome(Frozen):
    """What the job took that was submitted from a plan, and what the plan said."""

    device_s: float
    planned_device_s: Estimate
    seconds: float
    """From its start to its end, without pauses."""
    planned_s: Estimate
    """For the workers that ran when it was submitted."""
    cost: float
    planned_cost: Estimate

    @property
    def is_within(self) -> bool:
        """Whether the time of devices was in the interval of the plan."""
        return self.planned_device_s.holds(self.device_s)

    @property
    def log_error(self) -> float:
        """The logarithm of the actual time of devices over that of the plan."""
        return math.log(max(self.device_s, 1e-9) / max(self.planned_device_s.value, 1e-9))


class PastPlans(Frozen):
    """How good the tenant's latest plans were, of which the jobs have ended."""

    plans: int
    within: int
    """Of which the interval held."""
    median_error: float
    """The median of how far off the time of devices was: 0.1 is 10 %."""


class Plan(Frozen):
    """What a job will take. Times are seconds; of moments, since the epoch."""

    id: str
    """The plan's id."""
    state: PlanState
    """See `PlanState`."""
    title: str
    """The operator of the job; of several stages their names."""
    created_at: float
    """When it was asked for."""
    rows: int = 0
    """Rows of the job."""
    rows_are_exact: bool = False
    """Whether they are counted, not estimated from bytes."""
    sampled_rows: int = 0
    """Rows of the sample that workers have run."""
    work: Estimate | None = None
    """Time of devices that the rows take, without loading models."""
    work_by_pool: dict[str, float] = {}  # noqa: RUF012  # pydantic gives each value its own
    """The same by pool."""
    load_s: float = 0.0
    """Time in which a new worker loads the models."""
    start_s: float = 0.0
    """Time before the first row and after the last one."""
    cost: Estimate | None = None
    """What the rows cost."""
    currency: str = ""
    """The currency of the cost."""
    workers: int = 0
    """Workers that run in the smallest of its pools."""
    times: list[PlannedTime] = []  # noqa: RUF012  # pydantic gives each value its own
    """How long it takes with the workers that run, and with other numbers of them."""
    stages: list[PlannedStage] = []  # noqa: RUF012  # pydantic gives each value its own
    """What each stage takes."""
    errors: dict[str, int] = {}  # noqa: RUF012  # pydantic gives each value its own
    """Failed rows of the sample by type of error."""
    devices: list[PlannedDevice] = []  # noqa: RUF012  # pydantic gives each value its own
    """The types of devices that have run its operators, the fastest first."""
    deadline: PlanDeadline | None = None
    """Whether it will be done by its deadline, if it has one."""
    past: PastPlans | None = None
    """How good earlier plans were; None if there are none."""
    notes: list[str] = []  # noqa: RUF012  # pydantic gives each value its own
    """What the plan does not count, or could not know."""
    error: JobError | None = None
    """Why it failed."""
    job: str | None = None
    """The job that was submitted from it."""
    outcome: PlanOutcome | None = None
    """What that job took; None until it has completed."""

    @property
    def is_final(self) -> bool:
        """Whether it has been made, or has failed."""
        return self.state is not PlanState.SAMPLING

    def seconds_with(self, workers: int) -> Estimate:
        """Return how long the job takes with some workers in each of its pools.

        Pools work side by side, so the one with the most work counts. Workers beyond those that run load models first.
        Near the end, workers wait for the last shards: half of one on average.
        """
        if self.work is None or workers < 1:
            raise ValueError("expected a plan that is ready, and at least one worker")
        total = sum(self.work_by_pool.values())
        share = max(self.work_by_pool.values(), default=0.0) / total if total else 1.0
        alone_s = self.work.value * share
        tail_s = min(LAST_SHARD_S, alone_s / workers) / 2 if workers > 1 else 0.0
        load_s = self.load_s if workers > self.workers else 0.0
        return self.work.scaled(share / workers, self.start_s + tail_s + load_s)

    def workers_within(self, seconds: float) -> int | None:
        """Return the fewest workers in each pool that are done in time; None if no number is."""
        candidates = (2**power for power in range(MAX_POWER + 1))
        enough = next((number for number in candidates if self.seconds_with(number).value <= seconds), None)
        if enough is None:
            return None
        return next(
            number for number in range(enough // 2 + 1, enough + 1) if self.seconds_with(number).value <= seconds
        )


LAST_SHARD_S = 0.5
"""About the work of the last shards of a job; see `shard_size`."""
MAX_POWER = 12


class PlanList(Frozen):
    """A page of plans, the newest first; `next` goes into `after` for the page after it."""

    plans: list[Plan]
    next: str | None = None
