"""Which stages of a job run together: in one attempt, without storing what is between them.

A stage joins the one before it if both are in one pool, the results between them are not kept, it takes shards as they
come, and it does not gather them: the results of a source row may come from several attempts. With `fuse="auto"` it
must also cost little: an attempt of `FIRST_ROWS` of its rows takes less time, as workers have measured it, than to
commit these rows, to plan and claim a shard of them, and to read them again. A stage that costs more runs apart, in
shards of its own size; so does one whose cost is not known yet. Whether the stage before it costs much does not matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.errors import ServiceUnavailable
from batchmill.jobs.shard import FIRST_ROWS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from batchmill.jobs.job import JobSpec, StageSpec
    from batchmill.ledger.workers.profiles import ProfileLedger

HANDOVER_S = 0.02
"""About what a shard costs beside the computing of its rows: its input is stored, planned, claimed and read."""


def with_fusion(spec: JobSpec, versions: Sequence[str], profiles: ProfileLedger) -> JobSpec:
    """Return the spec with the decision for each stage. versions: of their operators."""

    def cost_s(number: int) -> float | None:
        try:
            found = profiles.cost_of(spec.stages[number], versions[number])
        except ServiceUnavailable:
            return None
        return None if found is None else found.low_s

    return decide_fusion(spec, cost_s)


def decide_fusion(spec: JobSpec, cost_s: Callable[[int], float | None]) -> JobSpec:
    """Decide for each stage. cost_s: seconds that a row takes in the stage of this number; None: not known. Pure."""
    stages = [without_fusion(spec.first)]
    for number in range(1, len(spec.stages)):
        joins, why = _decide(spec, number, cost_s)
        stages.append(spec.stages[number].model_copy(update={"joins": joins, "why_joins": why}))
    return spec.model_copy(update={"stages": tuple(stages)})


def as_before(spec: JobSpec, joins: Sequence[bool]) -> JobSpec:
    """Return the spec of a job that continues with the shards of another one. joins: which of its stages joined."""
    pairs = zip(spec.stages, joins, strict=True)
    why = "as in the job that it resumes"
    stages = (stage.model_copy(update={"joins": one, "why_joins": why}) for stage, one in pairs)
    return spec.model_copy(update={"stages": (without_fusion(next(stages)), *stages)})


def without_fusion(stage: StageSpec) -> StageSpec:
    """Return a stage that runs apart from the one before it."""
    return stage.model_copy(update={"joins": False, "why_joins": ""})


def _decide(spec: JobSpec, number: int, cost_s: Callable[[int], float | None]) -> tuple[bool, str]:
    before, stage = spec.stages[number - 1], spec.stages[number]
    if spec.fuse is False:
        return False, "the job says so"
    if before.pool != stage.pool:
        return False, f"it is in another pool than {before.title!r}"
    if stage.gathers:
        return False, "it gathers the results of each source row"
    if stage.has_own_shards:
        return False, "it takes shards of its own size"
    if before.keep:
        return False, f"the results of {before.title!r} are kept"
    if spec.fuse is True:
        return True, "the job says so"
    cost = cost_s(number)
    if cost is None:
        return False, "what its rows cost is not known yet"
    took = f"{FIRST_ROWS} rows take {_shown(cost * FIRST_ROWS)}"
    if cost * FIRST_ROWS > HANDOVER_S:
        return False, f"{took}, more than the {_shown(HANDOVER_S)} to store and read what is between"
    return True, f"{took}, less than the {_shown(HANDOVER_S)} to store and read what is between"


def _shown(seconds: float) -> str:
    return f"{seconds * 1000:,.3g} ms" if seconds < 1 else f"{seconds:,.3g} s"
