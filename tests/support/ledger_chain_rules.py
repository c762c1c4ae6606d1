"""The steps of the ledger and its model that make a job a chain: what is planned of a stage, freed and adopted."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from batchmill.jobs.shard import Shard, ShardId, Slice
from batchmill.ledger.formats.settlement import Settled
from batchmill.ledger.plan_step import PlanStep
from batchmill.sources.base import End, InputSplit, NotYet
from batchmill_coordinator.results.freed_results import FreedResults
from batchmill_coordinator.results.stage_source import StageSource
from batchmill_coordinator.roles.buffers import BufferKeeper
from support.hand_clock import HandClock
from support.ledger_lockstep import Lockstep

if TYPE_CHECKING:
    from batchmill.ledger import JobRecord
    from support.ledger_model_jobs import Part, Piece, Stage

some = st.integers(0, 1_000)  # picks one of what there is at that time
rarely = st.integers(0, 7).map(lambda number: number == 7)


class ChainRules(Lockstep):
    """Takes the same steps with the ledger and with the model."""

    @rule(
        which=some,
        number=some,
        sizes=st.lists(st.integers(1, 5), max_size=3),
        at_end=rarely,
        stale=rarely,
        deposed=rarely,
    )
    def plan(self, which: int, number: int, sizes: list[int], *, at_end: bool, stale: bool, deposed: bool) -> None:
        job, epoch = self.job(which), self.model.epoch - deposed
        stage = self.stage(job, number)
        record = self.records[job.id][0] if stale else self.record(job)
        step = (
            self.first_step(record, sizes, at_end=at_end) if stage.number == 0 else self.next_step(record, stage, sizes)
        )
        self.check(
            self.model.plan(record, stage.number, step, epoch),
            lambda: self.ledger.shards.plan(job.id, record.stages[stage.number], step, epoch),
        )

    def first_step(self, record: JobRecord, sizes: list[int], *, at_end: bool) -> PlanStep:
        """Shards of the source."""
        first, shards = record.first.rows_planned, []
        for number, rows in enumerate(sizes, record.first.shards_planned):
            slices = (Slice(0, first, first + rows, rows),)
            shards.append(Shard(record.id, 0, ShardId((number,)), first, rows, slices))
            first += rows
        return PlanStep(shards, [10] * len(shards), f"from {first}", at_end, None)

    def next_step(self, record: JobRecord, stage: Stage, sizes: list[int]) -> PlanStep:
        """Shards of what the stage before has settled, as its source gives them."""
        known = record.stages[stage.number]
        splitter = StageSource(self.ledger, record, stage.number, cast("Any", None)).splitter(known.cursor)
        first, cursor, shards, nbytes = known.rows_planned, known.cursor, list[Shard](), list[int]()
        for number, rows in enumerate(sizes or [1], known.shards_planned):
            split = splitter.next_split(rows, 1 << 20)
            if not isinstance(split, InputSplit):
                cursor = split.cursor or cursor if isinstance(split, NotYet) else cursor
                return PlanStep(shards, nbytes, cursor, isinstance(split, End), None)
            shards.append(Shard(record.id, stage.number, ShardId((number,)), first, split.rows, split.slices))
            nbytes.append(split.bytes)
            first, cursor = first + split.rows, split.cursor
        return PlanStep(shards, nbytes, cursor, False, None)

    @rule(deposed=rarely)
    def free(self, *, deposed: bool) -> None:
        """The buffer keeper looks at the stages whose next stage has settled more."""
        epoch = self.model.epoch - deposed
        keeper = BufferKeeper(self.ledger, FreedResults(self.ledger, cast("Any", None), HandClock()))
        if self.model.leads(epoch):
            for job in self.model.jobs.values():
                for stage, following in pairwise(job.stages):
                    if job.state and not job.ended_at and len(following.parts) > stage.freed_at:
                        self.model.free(job, stage)
        before = self.dump()
        keeper.step(epoch)
        assert self.model.leads(epoch) or self.dump() == before

    @rule(
        which=some, number=some, rows=st.integers(1, 3), dead=st.integers(0, 2), replay=st.integers(0, 2), late=rarely
    )
    def adopt(self, which: int, number: int, rows: int, dead: int, replay: int, *, late: bool) -> None:
        """A replay has settled rows in a later stage of a job that has ended."""
        job, epoch = self.job(which), self.model.epoch
        if not (job.state == "completed" and job.ended_at):
            return
        stage = self.stage(job, number)
        record = self.records[job.id][0] if late else self.record(job)
        known = record.stages[stage.number]
        adopted = Settled(stage.number, ShardId((known.shards_planned,)), 1, rows, dead, 10, known.rows_planned)
        counts = {"ValueError": dead} if dead else {}
        self.check(
            self.model.adopt(job, known, f"replay-{replay}", adopted, dead, epoch),
            lambda: self.ledger.results.adopt_shard(job.id, known, f"replay-{replay}", adopted, counts, epoch),
        )

    @invariant()
    def every_row_is_in_one_place(self) -> None:
        for job in self.model.jobs.values():
            whole = not job.ended_at or job.state == "completed"
            for stage in job.stages:
                pieces: list[Part | Piece] = [*stage.parts.values(), *stage.live.values()]
                end = 0
                for first_row, rows in sorted((piece.first_row, piece.rows) for piece in pieces):
                    assert first_row == end if whole else first_row >= end
                    end = first_row + rows
                assert end == stage.rows_planned or not whole
                assert stage.rows_done + stage.rows_dead == sum(part.rows for part in stage.parts.values())

    @invariant()
    def later_stages_have_the_results_of_those_before(self) -> None:
        for job in self.model.jobs.values():
            for before, stage in pairwise(job.stages):
                made = sum(part.results for part in before.parts.values() if not part.is_adopted)
                planned = stage.rows_planned - sum(part.rows for part in stage.parts.values() if part.is_adopted)
                assert planned == made if stage.planned else planned <= made
                assert 0 <= before.bytes_freed <= sum(part.nbytes for part in before.parts.values())
