"""The job model: what a user asks for, and the states of a job."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from batchmill.durations import Span
from batchmill.jobs.files import FileSource, OutputSpec, ResultsSource, UploadSource
from batchmill.jobs.frozen import Frozen, Name
from batchmill.jobs.sink import RESERVED_OPERATORS, STAGES, SinkSpec, sink_stages
from batchmill.jobs.stateful.windows import groups_in
from batchmill.jobs.streams.source import AnyStream, StreamSource
from batchmill.jobs.webhooks.spec import MAX_WEBHOOKS, WebhookSpec

MAX_INLINE_BYTES = 64 * 1024
"""Rows of at most this many bytes (as an Arrow stream) are stored in the ledger; more in the blob store."""

MAX_PARAMS_BYTES = 64 * 1024
MAX_STAGES = 16
"""The most stages of a job."""

MIN_BUFFER_BYTES = 1024 * 1024
DEFAULT_BUFFER_BYTES = 256 * 1024 * 1024
"""How many bytes of results a stage may have stored that the next stage has not settled."""

DEFAULT_POOL = "default"
DEFAULT_TENANT = "default"
POOL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"


class JobState(StrEnum):
    """The state of a job, and who changes it next."""

    PENDING = "pending"
    """Accepted; the planner starts it. A job of few rows is planned as it is accepted, and runs at once."""
    RUNNING = "running"
    """Shards are planned or running; the finisher ends it."""
    PAUSED = "paused"
    """Paused by a user or by its budget: nothing is planned, queued or claimed; a user resumes it."""
    CANCELLING = "cancelling"
    """Stopped by a user; the finisher ends it when its workers have stopped."""
    FAILING = "failing"
    """Stopped by an error; the finisher ends it when its workers have stopped."""
    EXPIRING = "expiring"
    """Its deadline passed; the finisher ends it when its workers have stopped."""
    COMPLETED = "completed"
    """Every row is done or has failed; final."""
    CANCELLED = "cancelled"
    """Stopped by a user, finished rows are kept; final."""
    FAILED = "failed"
    """Stopped by an error, finished rows are kept; final."""
    EXPIRED = "expired"
    """Stopped by its deadline, finished rows are kept; final."""

    @property
    def is_final(self) -> bool:
        """Whether the job has ended: its state never changes again."""
        return self in (JobState.COMPLETED, JobState.CANCELLED, JobState.FAILED, JobState.EXPIRED)

    @property
    def takes_shards(self) -> bool:
        """Whether more of it may be planned."""
        return self in (JobState.PENDING, JobState.RUNNING)

    @property
    def is_stopping(self) -> bool:
        """Whether its workers are asked to stop."""
        return self in (JobState.CANCELLING, JobState.FAILING, JobState.EXPIRING)


_STOPS = frozenset({JobState.CANCELLING, JobState.FAILING, JobState.EXPIRING})

JOB_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.PENDING: frozenset({JobState.RUNNING, JobState.PAUSED}) | _STOPS,
    JobState.RUNNING: frozenset({JobState.COMPLETED, JobState.PAUSED}) | _STOPS,
    JobState.PAUSED: frozenset({JobState.PENDING, JobState.RUNNING, JobState.COMPLETED}) | _STOPS,
    JobState.CANCELLING: frozenset({JobState.CANCELLED}),
    JobState.FAILING: frozenset({JobState.FAILED}),
    JobState.EXPIRING: frozenset({JobState.EXPIRED}),
    JobState.COMPLETED: frozenset(),
    JobState.CANCELLED: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.EXPIRED: frozenset(),
}
"""The state machine of a job. `docs/architecture.md` draws it; a test compares."""


OnNull = Literal["dead", "skip", "fail"]


def _known_fuse(value: Any) -> Any:
    if isinstance(value, bool) or value == "auto":
        return value
    raise ValueError(f"expected true, false or 'auto', got {value!r:.80}")


Fuse = Annotated[bool | Literal["auto"], BeforeValidator(_known_fuse)]


class RetryPolicy(Frozen):
    """How often rows and shards are tried, how long they wait in between, and how many rows may fail."""

    max_attempts: int = Field(default=3, ge=1, le=1000)
    """Attempts of a row that raises, and of a shard whose operator fails."""
    backoff_s: Annotated[float, Span(ge=0, le=3600)] = 1.0
    """Longest wait before the second attempt; it doubles with each further attempt."""
    backoff_max_s: Annotated[float, Span(ge=0, le=86_400)] = 60.0
    """Longest wait before any attempt."""
    retry_on: list[str] | None = None
    """Types of errors that are retried, with or without their module. None: all."""
    never_on: list[str] = []  # noqa: RUF012  # pydantic gives each value its own
    """Types of errors that are not retried."""
    max_dead: float | None = Field(default=None, ge=0)
    """Fail the job when more rows than this have failed; below 1: when more than this share has."""


class BatchPolicy(Frozen):
    """How many rows are given to the device at once. The lowest of several limits applies; units are operator costs."""

    size: int | None = Field(default=None, ge=1, le=1_000_000)
    """Rows per batch, fixed. None: as the operator says."""
    target_overhead: float = Field(default=0.05, gt=0, lt=1)
    """Share of a batch's time that may be spent on its fixed cost, which its size does not change."""
    target_latency_s: Annotated[float, Span(gt=0, le=3600)] | None = None
    """Longest time that a batch should take."""
    max_units: float | None = Field(default=None, gt=0)
    """Most units of cost per batch; a single row may exceed it."""


class _OperatorFields(Frozen):
    """What a stage runs, and how."""

    operator: Name
    params: dict[str, Any] = {}  # noqa: RUF012  # pydantic gives each value its own
    carry: list[str] | None = None  # input columns that results keep; None: all of them
    on_null: OnNull = "dead"  # what becomes of a row without a value that the operator requires
    pool: Annotated[str, Field(pattern=POOL_PATTERN)] = DEFAULT_POOL
    retry: RetryPolicy = RetryPolicy()
    batch: BatchPolicy = BatchPolicy()
    cache: bool = False  # whether rows may be taken from the row cache, and new results put there


class _JobFields(Frozen):
    """What a job has once, however many stages it has."""

    source: FileSource | UploadSource | ResultsSource | AnyStream | None = None  # None: the rows are sent inline
    output: OutputSpec | None = None
    sink: SinkSpec | None = None
    name: Name | None = None
    priority: int = Field(default=0, ge=-100, le=100)  # higher goes first
    deadline_at: float | None = Field(default=None, gt=0, lt=1e11)  # seconds since the epoch
    budget: float | None = Field(default=None, ge=1e-6, le=1e6)  # in the service's currency; cost reaches it: paused
    fuse: Fuse = "auto"  # whether stages of one pool run together: each that may, none, or those that cost little
    any_version: bool = False  # whether its rows may be done by several versions of its operators
    webhooks: Annotated[list[WebhookSpec], Field(max_length=MAX_WEBHOOKS)] = []  # noqa: RUF012  # as above


class _BetweenStages(Frozen):
    """What becomes of the results of a stage that is not the last. Of the last stage it means nothing."""

    keep: bool = False  # whether they stay until the job is deleted, instead of until the next stage has settled them
    buffer_bytes: int = Field(default=DEFAULT_BUFFER_BYTES, ge=MIN_BUFFER_BYTES, le=2**50)  # that may wait for it


class StageSpec(_OperatorFields, _BetweenStages):
    """What one stage of a job is to do."""

    name: Name | None = None  # None: it is called after its operator
    min_shard_rows: int = 1  # of a shard, while the stage before it is not over
    max_at_once: int | None = None  # shards that are queued or running at a time
    takes_all: bool = False  # whether all of its input is one shard
    in_turn: bool = False  # whether shards run one after the other, each with what one of the stage before has made
    rows_together: bool = False  # whether no shard divides what was made of a source row
    gathers: bool = False  # whether its operator does; from what workers announce
    keeps_state: bool = False  # the same: its shards run one after the other, each with the state of the one before
    joins: bool = False  # whether an attempt of the stage before runs this one as well, on what it has made
    why_joins: str = ""  # why, or why not

    @property
    def title(self) -> str:
        """Its name, for people."""
        return self.name or self.operator

    @property
    def shards_of_round(self) -> int:
        """How many shards are planned at a time if it keeps state: one for each group of keys."""
        return groups_in(self.params) if self.keeps_state else 1

    @property
    def has_own_shards(self) -> bool:
        """Whether its shards are not as the stage before makes its results."""
        return self.min_shard_rows > 1 or self.max_at_once is not None or self.is_undivided

    @property
    def is_undivided(self) -> bool:
        """Whether a shard is run as a unit, and never cut: no row of it has results of its own."""
        return self.takes_all or self.keeps_state or self.in_turn


class StageForm(_BetweenStages):
    """A stage as users write it: what is None is as the job says."""

    operator: Name
    name: Name | None = None
    params: dict[str, Any] = {}  # noqa: RUF012  # pydantic gives each value its own
    carry: list[str] | None = None
    on_null: OnNull | None = None
    pool: Annotated[str, Field(pattern=POOL_PATTERN)] | None = None
    retry: RetryPolicy | None = None
    batch: BatchPolicy | None = None
    cache: bool | None = None


class JobSpec(_JobFields):
    """What a job is to do. Validated completely before anything is stored; never changed afterwards."""

    stages: Annotated[tuple[StageSpec, ...], Field(min_length=1, max_length=MAX_STAGES)]  # in the order of the rows
    undivided: bool = False  # whether each stage runs all rows that it has in one shard, as a round of a plan does

    @property
    def computing(self) -> tuple[StageSpec, ...]:
        """The stages that the user named; behind them are those of the sink."""
        return tuple(stage for stage in self.stages if not stage.operator.startswith(RESERVED_OPERATORS))

    @property
    def is_chain(self) -> bool:
        """Whether rows pass through several stages."""
        return len(self.stages) > 1

    def name_in_chain(self, stage: int) -> str | None:
        """Return the name of a stage of several; None if it is the only one."""
        return self.stages[stage].title if self.is_chain else None

    @property
    def stream(self) -> AnyStream | None:
        """The source, if it has no end."""
        return self.source if isinstance(self.source, StreamSource) else None

    @property
    def has_lineage(self) -> bool:
        """Whether its results say which row of a source each is from, through all stages."""
        return self.is_chain or self.reads_lineage(0)

    def reads_lineage(self, stage: int) -> bool:
        """Whether the input of a stage says so."""
        return (
            stage > 0
            or isinstance(self.source, ResultsSource)
            or (isinstance(self.source, UploadSource) and self.source.lineage)
        )

    def is_gathered_behind(self, stage: int) -> bool:
        """Whether a later stage than this one is given all rows of a source row together."""
        return self.gathering_behind(stage) is not None

    def keeps_rows_together(self, stage: int) -> bool:
        """Whether shards of a stage must not divide what was made of a source row, for its own sake or another's."""
        return any(one.gathers or one.rows_together for one in self.stages[stage:])

    def gathering_behind(self, stage: int) -> int | None:
        """The number of the first such stage."""
        return next((number for number in range(stage + 1, len(self.stages)) if self.stages[number].gathers), None)

    @property
    def first(self) -> StageSpec:
        """The stage that reads the job's source."""
        return self.stages[0]

    @property
    def last(self) -> StageSpec:
        """The stage whose results are the job's."""
        return self.stages[-1]


_OF_ONE_STAGE = ("operator", "params", "carry")
_SHARED = ("on_null", "pool", "retry", "batch", "cache")
"""Fields of a job that hold for each of its stages, unless the stage says otherwise."""


class JobForm(_OperatorFields, _JobFields):
    """A job as users write it: of one operator, which is a chain of one stage, or of several stages."""

    operator: Name | None = None  # type: ignore[assignment]  # of several stages each has its own
    stages: Annotated[list[StageForm], Field(min_length=1, max_length=MAX_STAGES)] | None = None
    deadline: Annotated[float, Span(gt=0, le=1e9)] | None = None  # from when it is accepted; `dated` makes it a moment
    _undivided: bool = PrivateAttr(default=False)  # no field: users do not set it

    @model_validator(mode="after")
    def _has_one_deadline(self) -> Self:
        if self.deadline is not None and self.deadline_at is not None:
            raise ValueError("expected either deadline or deadline_at")
        return self

    @model_validator(mode="after")
    def _has_operators(self) -> Self:
        if (self.operator is None) == (self.stages is None):
            raise ValueError("expected either an operator or stages")
        self._check_sink()
        if self.stages is None:
            return self
        if self.params or self.carry is not None:
            raise ValueError("params and carry are those of a stage: give them there")
        names = [stage.name or stage.operator for stage in self.stages]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two stages are called {twice!r}: give each a name of its own")
        return self

    @model_validator(mode="after")
    def _rolls_only_streams(self) -> Self:
        if self.output is not None and self.output.roll_s is not None and not isinstance(self.source, StreamSource):
            raise ValueError("output.roll_s is for jobs over streams; the output of others is written as they run")
        return self

    def _check_sink(self) -> None:
        if self.sink is None:
            return
        if self.output is not None:
            raise ValueError("a job has an output or a sink; to get both, submit it twice, with cache=true")
        if self.sink.mode == "amend":
            raise ValueError("sink.mode: expected 'replace', 'upsert' or 'mirror'")
        if any((stage.name or stage.operator) in STAGES for stage in self.stages or ()):
            raise ValueError(f"the stages of the sink are called {' and '.join(STAGES)}: give yours other names")
        if len(self.stages or ()) + len(STAGES) > MAX_STAGES:
            raise ValueError(f"a job with a sink has at most {MAX_STAGES - len(STAGES)} other stages")

    def dated(self, now_s: float) -> Self:
        """Return the form with its deadline as a moment. now_s: seconds since the epoch."""
        if self.deadline is None:
            return self
        return self.model_copy(update={"deadline": None, "deadline_at": now_s + self.deadline})

    def spec(self) -> JobSpec:
        """Return the spec that this form describes; its deadline is a moment by now, see `dated`."""
        if self.deadline is not None:
            raise AssertionError("the deadline of the form was not dated")
        fields = {name: getattr(self, name) for name in _JobFields.model_fields}
        return JobSpec(stages=self.stage_specs(), undivided=self._undivided, **fields)

    def stage_specs(self) -> tuple[StageSpec, ...]:
        """Return what its stages are to do, in order."""
        shared = {name: getattr(self, name) for name in _SHARED}
        if self.stages is None:
            own = [{name: getattr(self, name) for name in _OF_ONE_STAGE}]
        else:
            own = [
                {name: getattr(stage, name) for name in StageForm.model_fields if getattr(stage, name) is not None}
                for stage in self.stages
            ]
        behind = (
            [] if self.sink is None else sink_stages(self.sink, shared, in_steps=isinstance(self.source, StreamSource))
        )
        return tuple(StageSpec(**fields) for fields in [*(shared | fields for fields in own), *behind])

    def as_undivided(self) -> Self:
        """Return the form of the same job with each stage in one shard."""
        made = self.model_copy()
        made._undivided = True  # noqa: SLF001  # of the same class
        return made

    @classmethod
    def of(cls, spec: JobSpec) -> JobForm:
        """Write a spec as a form."""
        fields = {name: getattr(spec, name) for name in _JobFields.model_fields}
        if not spec.computing:  # a replay of what a sink could not store
            fields["sink"] = None
        shown = spec.computing or spec.stages
        if len(shown) != 1:
            stages = [StageForm(**{name: getattr(one, name) for name in StageForm.model_fields}) for one in shown]
            return cls(stages=stages, **fields)
        (stage,) = shown
        return cls(**{name: getattr(stage, name) for name in _OperatorFields.model_fields}, **fields)


class JobRequest(JobForm):
    """The body of `POST /v1/jobs`: a form, and the rows themselves when they are few."""

    rows: list[dict[str, Any]] | None = None
    rows_arrow: str | None = None  # an Arrow IPC stream in base64: like `rows`, with exact types
    idempotency_key: Name | None = None


class JobError(Frozen):
    """Why a job failed."""

    code: str
    message: str
    details: dict[str, Any] = {}  # noqa: RUF012  # pydantic gives each value its own
