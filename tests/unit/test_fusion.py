"""Which stages run together, and the measured costs that this is decided by."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pydantic import BaseModel

from batchmill.clock import SystemClock
from batchmill.jobs.dead_letters import DeadLetter, DeadRows
from batchmill.jobs.job import Fuse, JobForm, StageForm
from batchmill.jobs.stage_cost import StageCost, stage_cost_name
from batchmill.operators.contract import OperatorDefinition
from batchmill_coordinator.admission.fusion import HANDOVER_S, as_before, decide_fusion
from batchmill_worker.engine.stage_costs import MAX_SAMPLES, SAVE_INTERVAL_S, StageCosts

CHEAP, COSTLY = HANDOVER_S / 1000, HANDOVER_S


@pytest.mark.parametrize(
    ("fuse", "cost_s", "options", "joins", "why"),
    [
        ("auto", CHEAP, {}, True, "less than the 20 ms"),
        ("auto", COSTLY, {}, False, "more than the 20 ms"),
        ("auto", None, {}, False, "not known yet"),
        (True, COSTLY, {}, True, "the job says so"),
        (False, CHEAP, {}, False, "the job says so"),
        (True, CHEAP, {"pool": "gpu"}, False, "another pool than 'a'"),
        (True, CHEAP, {"keep": True}, False, "the results of 'a' are kept"),
    ],
)
def test_a_stage_joins_the_one_before_it_if_the_job_its_pool_and_its_cost_allow_it(
    fuse: Fuse, cost_s: float | None, options: dict[str, object], *, joins: bool, why: str
) -> None:
    stages = [StageForm(operator="a", **options), StageForm(operator="b")]
    spec = decide_fusion(JobForm(stages=stages, fuse=fuse).spec(), lambda _: cost_s)
    assert [stage.joins for stage in spec.stages] == [False, joins]
    assert why in spec.last.why_joins
    again = as_before(spec, [False] * len(spec.stages))
    assert not any(stage.joins for stage in again.stages)
    decided = [stage.joins for stage in spec.stages]
    assert [stage.joins for stage in as_before(again, decided).stages] == decided


def test_a_stage_that_gathers_never_joins() -> None:
    spec = JobForm(stages=[StageForm(operator="a"), StageForm(operator="b"), StageForm(operator="c")], fuse=True).spec()
    gathering = spec.stages[1].model_copy(update={"gathers": True})
    spec = spec.model_copy(update={"stages": (spec.first, gathering, spec.last)})
    decided = decide_fusion(spec, lambda _: CHEAP)
    assert [stage.joins for stage in decided.stages] == [False, False, True]
    assert "gathers the results of each source row" in decided.stages[1].why_joins


class Kept:
    """Profiles in memory."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def read(self, name: str) -> bytes | None:
        return self.values[name].encode() if name in self.values else None

    def write(self, name: str, profile: str) -> None:
        self.values[name] = profile


class Clock(SystemClock):
    """A clock that is set."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


def test_the_costs_of_a_row_are_shared_when_they_change_much_and_now_and_then() -> None:
    kept, clock = Kept(), Clock()
    costs = StageCosts(kept, clock)
    stage = JobForm(operator="a", params={"n": 1}).spec().first
    definition = OperatorDefinition(name="a", make=lambda: None, params=BaseModel)  # type: ignore[arg-type,return-value]
    name = stage_cost_name(stage, definition.version)
    costs.add(definition, stage, rows=100, seconds=10.0)
    assert kept.values == {name: "0.1 0.1"}
    costs.add(definition, stage, rows=100, seconds=8.0)  # not much less
    costs.add(definition, stage, rows=10, seconds=1.8)  # not much more, for an attempt of few rows
    assert kept.values == {name: "0.1 0.1"}
    clock.now_s = SAVE_INTERVAL_S
    costs.add(definition, stage, rows=1, seconds=9.0)
    assert kept.values == {name: "0.08 0.141"}
    costs.add(definition, stage, rows=1000, seconds=20.0)  # much less
    assert kept.values == {name: "0.02 0.141"}
    costs.add(definition, stage, rows=100, seconds=50.0)  # much more
    assert kept.values == {name: "0.02 0.5"}
    for _ in range(MAX_SAMPLES):
        clock.now_s += SAVE_INTERVAL_S
        costs.add(definition, stage, rows=100, seconds=10.0)
    assert kept.values == {name: "0.1 0.1"}
    assert StageCost.parse(kept.values[name]) == StageCost(0.1, 0.1)
    other = stage.model_copy(update={"params": {"n": 2}})
    assert stage_cost_name(other, definition.version) != name


def test_dead_letters_that_count_from_their_shard_are_read_with_their_index_in_the_stage() -> None:
    letter = DeadLetter(
        stage=1,
        index=3,
        row={},
        operator="a",
        error_type="E",
        message="",
        attempts=1,
        worker="",
        first_failed_at=0,
        last_failed_at=0,
    )
    stored = DeadRows((letter,), pa.table({"id": [7]}), count_from_shard=True).table()
    read = DeadRows.from_table(stored)
    assert [one.index for one in read.counted_from_input(100).letters] == [103]
    again = DeadRows.from_table(read.counted_from_input(100).table())
    assert [one.index for one in again.counted_from_input(100).letters] == [103]
