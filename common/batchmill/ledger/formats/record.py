"""A job and its stages as the ledger has them.

A field is declared once, here. Its type says how it is read from the field of that name in the job's or stage's hash.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

from batchmill.jobs.cost import Spent, sums
from batchmill.jobs.job import DEFAULT_TENANT, JobError, JobSpec, JobState, StageSpec
from batchmill.jobs.sink import PUBLISH_OPERATOR
from batchmill.jobs.status import TokenSums
from batchmill.ledger.formats.encodings import CommitInterval, parse_paces

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Hash = Mapping[bytes, bytes]

NO_COST = Spent()
COST = "cost"
"""The name under which the hash of a stage has the fields of its cost."""


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What the ledger knows of a stage. Times are milliseconds since the epoch; counters count rows or shards."""

    number: int
    spec: StageSpec
    joins: bool = False  # whether it runs with the stage before it, and has shards of the same numbers
    operator_version: str = ""
    revision: str = ""  # of its operator, to which the first claim binds it; "": not claimed yet
    cursor: str = ""
    planned: bool = False  # whether the end of its input was reached
    rows_total: int | None = None
    rows_exact: bool = False
    lag: int | None = None  # rows that a stream has and that are not planned; None: not known, or no stream
    rows_planned: int = 0
    rows_done: int = 0
    rows_dead: int = 0
    rows_cached: int = 0
    rows_filtered: int = 0  # of those done, without a result
    prompt_tokens: int = 0  # of the results of a language model
    cached_tokens: int = 0
    generated_tokens: int = 0
    rows_resumed: int = 0  # of those done and dead, what an earlier job left
    rows_timed: int = 0  # rows that `busy_us` was spent on
    shards_planned: int = 0
    shards_live: int = 0
    shards_queued: int = 0
    shards_running: int = 0
    shards_done: int = 0
    stragglers: int = 0  # attempts that run on while their shard is queued again
    shards_preempted: int = 0  # how often one was asked to make room
    shards_speculated: int = 0  # shards that were queued again so
    busy_us: int = 0  # device time of committed attempts
    bytes_in: int = 0
    paces: tuple[CommitInterval, ...] = ()  # the last intervals between commits, the latest last
    rate_at: int | None = None  # when the open interval began
    rate_rows: int = 0  # settled by then
    last_queued_at: int | None = None  # when a shard of it was last queued, or the job was resumed
    buffer_bytes: int | None = None  # of its results that may wait for the next stage; None: it is the last
    rows_out: int = 0  # its results, if it is not the last
    bytes_out: int = 0  # the same, stored
    bytes_freed: int = 0  # of those, what the next stage has settled
    freed: str = ""  # how far its parts are freed, see `FreedParts`
    kept: str = ""  # of a stream: of which shards something is kept, see `KeptShards`
    rolled: str = ""  # of a stream with an output: how far its results are in files, see `Rolls`
    cost: Spent = NO_COST

    @property
    def tokens(self) -> TokenSums:
        """The tokens of its results."""
        return TokenSums(prompt=self.prompt_tokens, cached=self.cached_tokens, generated=self.generated_tokens)

    @property
    def buffered(self) -> int:
        """How many bytes of its results wait for the next stage."""
        return self.bytes_out - self.bytes_freed

    @property
    def rows_left(self) -> int:
        """The rows that are neither done nor dead; of an input whose length is not known, those that were seen."""
        known = self.rows_planned if self.rows_total is None else max(self.rows_total, self.rows_planned)
        return max(known - self.rows_done - self.rows_dead, 0)

    @property
    def expected_results(self) -> tuple[int, bool] | None:
        """How many results it will have made, and whether that is exact; None while too little is known.

        Until it is settled: as if its other rows gave as many results each.
        """
        if self.is_settled:
            return self.rows_out, True
        settled = self.rows_done + self.rows_dead
        if self.rows_total is None or not settled:
            return None
        return max(round(self.rows_total * self.rows_out / settled), self.rows_out), False

    @property
    def shards_in_flight(self) -> int:
        """The shards that are queued or running."""
        return self.shards_queued + self.shards_running

    @property
    def is_settled(self) -> bool:
        """Whether every shard that it will ever have is settled."""
        return self.planned and self.shards_live == 0

    @classmethod
    def from_hash(cls, number: int, spec: StageSpec, found: Hash) -> StageRecord:
        """Read a record from the stage's hash."""
        text = _text(found)
        cost = {name: amount for name, amount in text.items() if name.startswith(f"{COST} ")}
        return cls(number=number, spec=spec, cost=sums(cost).get(COST, NO_COST), **_read(_STAGE_READERS, text))


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What the ledger knows of a job. Times are milliseconds since the epoch."""

    id: str
    spec: JobSpec
    state: JobState
    stages: tuple[StageRecord, ...]
    created_at: int = 0
    started_at: int | None = None
    paused_at: int | None = None  # while it is paused
    stopping_at: int | None = None
    finished_at: int | None = None
    paused_ms: int = 0  # in all pauses that are over, since it started
    error: JobError | None = None
    replay_of: str | None = None  # the job whose dead letters this one runs again
    resumed_from: str | None = None  # the job whose output this one resumes
    stalled: str = ""  # why its last attempt could not use storage; "" once rows were stored since
    paused_for: str = ""  # what a user has to do before it can be resumed
    must_resume: bool = False  # whether what that job left is still to be taken over
    stream_away: str = ""  # why the source of its stream cannot be asked
    savepoint: str = ""  # how far a stream was planned when the job was drained, as `StreamOffsets`; "": it was not
    plannings: int = 0  # how often the planner has begun with it and was not through
    tenant: str = DEFAULT_TENANT
    budget_nano: int | None = None  # in billionths of the currency's unit, as are all costs
    cost_nano: int = 0

    @property
    def first(self) -> StageRecord:
        """The stage that reads the job's source."""
        return self.stages[0]

    @property
    def last(self) -> StageRecord:
        """The stage whose results are the job's."""
        return self.stages[-1]

    @property
    def counted(self) -> StageRecord:
        """The stage whose rows are counted as the job's: the last one, or that which writes the rows into a sink."""
        return next(one for one in reversed(self.stages) if one.spec.operator != PUBLISH_OPERATOR)

    @property
    def rows_dead(self) -> int:
        """The rows that failed for good, in all stages."""
        return sum(stage.rows_dead for stage in self.stages)

    @property
    def shards_running(self) -> int:
        """The shards that run, of all stages."""
        return sum(stage.shards_running for stage in self.stages)

    @property
    def shards_live(self) -> int:
        """The shards that are not settled, of all stages."""
        return sum(stage.shards_live for stage in self.stages)

    @property
    def is_settled(self) -> bool:
        """Whether every shard that the job will ever have is settled."""
        return all(stage.is_settled for stage in self.stages)

    @classmethod
    def from_hashes(cls, job_id: str, found: Hash, stages: Sequence[Hash]) -> JobRecord:
        """Read a record from the hashes of a job and of its stages; those of stages that it does not have are empty."""
        known = _read(_JOB_READERS, _text(found))
        specs = known["spec"].stages
        pairs = zip(specs, stages[: len(specs)], strict=True)
        records: list[StageRecord] = []
        for number, (spec, stage) in enumerate(pairs):
            record = StageRecord.from_hash(number, spec, stage)
            records.append(_with_total(record, records[-1]) if number and record.joins else record)
        return cls(id=job_id, stages=tuple(records), **known)


def _with_total(stage: StageRecord, before: StageRecord) -> StageRecord:
    """Fill in what the planner writes of other stages.

    Once the stage before is settled, all rows are planned: its results, and those that replays have added.
    """
    rows, exact = (stage.rows_planned, True) if before.is_settled else before.expected_results or (None, False)
    return replace(stage, rows_total=rows, rows_exact=exact)


StageKey = tuple[str, int]
"""A job's id and the number of one of its stages."""


class JobStage(NamedTuple):
    """A stage with its job."""

    job: JobRecord
    stage: StageRecord

    @property
    def key(self) -> StageKey:
        """The job's id and the stage's number."""
        return self.job.id, self.stage.number

    @property
    def spec(self) -> StageSpec:
        """What the stage is to do."""
        return self.stage.spec

    @property
    def together(self) -> Sequence[StageRecord]:
        """The stage, and those behind it that run with it."""
        stages, behind = self.job.stages, self.stage.number + 1
        while behind < len(stages) and stages[behind].joins:
            behind += 1
        return stages[self.stage.number : behind]

    @property
    def may_be_awaited(self) -> bool:
        """Whether a stage behind it, or behind one that runs with it, has nothing to do."""
        behind = (one.number + 1 for one in self.together)
        return any(self.job.stages[number].shards_live == 0 for number in behind if number < len(self.job.stages))

    @property
    def busy_us(self) -> int:
        """The device time of its committed attempts, and of the stages that run with it."""
        return sum(one.busy_us for one in self.together)

    @property
    def waiting_since_ms(self) -> int:
        """Since when the stage has had no shard queued."""
        return self.stage.last_queued_at or self.job.created_at

    @property
    def is_untouched(self) -> bool:
        """Whether its shards are as the planner numbered them: none was queued yet, left by another job, or dropped."""
        if self.stage.joins or self.job.resumed_from is not None or self.job.state.is_final:
            return False
        return self.stage.last_queued_at is None and self.stage.shards_live == self.stage.shards_planned


@lru_cache(maxsize=1024)
def _spec(text: str) -> JobSpec:
    return JobSpec.model_validate_json(text)


def _flag(text: str) -> bool:
    return text == "1"


_READ_AS: Mapping[Any, Callable[[str], Any]] = {
    int: int,
    int | None: int,
    str: str,
    str | None: str,
    bool: _flag,
    JobState: JobState,
    JobSpec: _spec,
    JobError | None: JobError.model_validate_json,
    tuple[CommitInterval, ...]: parse_paces,
}
"""How a field of each type is read from its text."""


def _readers(record: type) -> dict[str, Callable[[str], Any]]:
    types = get_type_hints(record)
    return {field.name: _READ_AS[types[field.name]] for field in fields(record) if types[field.name] in _READ_AS}


_JOB_READERS = _readers(JobRecord)
_STAGE_READERS = _readers(StageRecord)


def _text(found: Hash) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in found.items()}


def _read(readers: Mapping[str, Callable[[str], Any]], text: Mapping[str, str]) -> dict[str, Any]:
    """Read the fields that are there and not empty."""
    return {name: read(text[name]) for name, read in readers.items() if text.get(name)}
