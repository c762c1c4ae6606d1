"""The status of a job and of its stages, and what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ConfigDict, RootModel

from batchmill.jobs.frozen import Frozen
from batchmill.jobs.job import DEFAULT_POOL, DEFAULT_TENANT, JobError, JobForm, JobState
from batchmill.jobs.streams.status import StreamStatus

if TYPE_CHECKING:
    from collections.abc import Iterator


class TokenSums(Frozen):
    """Tokens of prompts, those of them that were computed before, and of answers."""

    prompt: int = 0
    cached: int = 0
    generated: int = 0

    @property
    def total(self) -> int:
        """Tokens of prompts and answers."""
        return self.prompt + self.generated

    def write(self) -> str:
        """Return them as the ledger's scripts read them; "": none."""
        return f"{self.prompt} {self.cached} {self.generated}" if self.total else ""

    def __add__(self, other: TokenSums) -> TokenSums:
        return TokenSums(
            prompt=self.prompt + other.prompt,
            cached=self.cached + other.cached,
            generated=self.generated + other.generated,
        )


NO_TOKENS = TokenSums()


class CostParts(Frozen):
    """Time of devices, or the money it costs, by what it went into."""

    useful: float = 0.0  # rows whose results are kept
    padding: float = 0.0  # what batches of them were padded with
    retried: float = 0.0  # wasted: batches that failed, attempts that were lost or requeued without a checkpoint
    load: float = 0.0  # setting models up
    idle: float = 0.0  # the device waited for its attempts: they loaded rows, stored results, called Python
    preempted: float = (
        0.0  # wasted: attempts that made room, for another job or as their worker stopped, before a row was done
    )


class Cost(Frozen):
    """What something cost; the parts add up to the totals."""

    seconds: CostParts = CostParts()
    money: CostParts = CostParts()
    total_s: float = 0.0
    total: float = 0.0
    rows: int = 0  # brought to an end in that time, done or dead
    per_thousand_rows: float | None = None  # money


class StageCost(Cost):
    """What one stage of a job cost."""

    stage: int


class JobCost(Cost):
    """What a job cost so far. What is at work just now is counted when it ends."""

    currency: str
    budget: float | None = None
    per_million_tokens: float | None = None  # money, of prompts and answers; None without a language model
    stages: list[StageCost] = []

    def __str__(self) -> str:
        limit = "" if self.budget is None else f" of {self.budget:g}"
        return f"{self.total:.6g}{limit} {self.currency}, {self.total_s:.3f} s for {self.rows:,} rows"


class StageStatus(Frozen):
    """How far a stage of a job is."""

    name: str = ""  # as it was called, or its operator
    operator: str
    pool: str = DEFAULT_POOL
    rows_total: int | None = None  # that it will be given; None until it is known
    rows_done: int = 0
    rows_dead: int = 0
    rows_filtered: int = 0  # of those done, without a result
    rows_cached: int = 0  # of those done, not computed
    tokens: TokenSums | None = None  # of its results; None: no language model has made any
    results: int | None = None  # that it has made for the next stage; None: it is the last
    share: float | None = None  # of its rows that are done or dead, 0 to 1; None until the total is known
    shards_done: int = 0
    shards_running: int = 0
    shards_preempted: int = 0  # how often a shard made room for a job of far higher priority
    shards_speculated: int = 0  # that took far too long, and were run on a second worker as well
    workers_loading: int = 0  # that load its model now, while none of its rows is done
    buffered_bytes: int = 0  # of its results, what waits for the next stage
    buffer_bytes: int | None = None  # the most that may wait; None: it is the last
    rows_per_second: float | None = None  # recent rate; of an ended job, the overall rate
    eta_s: float | None = None  # estimated seconds until its rows are done; None while there is no estimate
    fused: bool = False  # whether attempts of the stage before run it as well, without storing what is between
    why_fused: str = ""  # why, or why not


class StageStatuses(RootModel[list[StageStatus]]):
    """The stages of a job in the order in which rows pass through them: a list that also takes names."""

    model_config = ConfigDict(frozen=True)

    root: list[StageStatus] = []

    def __getitem__(self, key: int | str) -> StageStatus:
        """Return a stage by its place or its name. Raises `IndexError` or `KeyError`."""
        if isinstance(key, int):
            return self.root[key]
        found = next((stage for stage in self.root if stage.name == key), None)
        if found is None:
            raise KeyError(f"the job has no stage {key!r}; its stages are: {', '.join(one.name for one in self.root)}")
        return found

    def __len__(self) -> int:
        return len(self.root)

    def __iter__(self) -> Iterator[StageStatus]:  # type: ignore[override]  # a model's gives its fields
        return iter(self.root)


class JobStatus(Frozen):
    """The status of a job. Times are seconds since the epoch."""

    id: str
    """The job's id."""
    state: JobState
    """See `JobState`."""
    operator: str
    """Name of its operator."""
    name: str | None = None
    """The name that it was submitted with."""
    pool: str = DEFAULT_POOL
    """The pool of workers that it runs on."""
    priority: int = 0
    """-100 to 100; higher runs first."""
    deadline_at: float | None = None
    """When it expires, unless it has completed."""
    rows_total: int | None = None
    """Rows of its input, None until known; of several stages: of the last one, and failed rows of the others."""
    rows_total_is_estimate: bool = False
    """Whether `rows_total` is estimated from bytes, because the end is not reached yet."""
    rows_done: int = 0
    """Rows with a result."""
    rows_dead: int = 0
    """Failed rows; they are not among the results."""
    dead_by_error: dict[str, int] = {}
    """Failed rows by type of error: the most frequent types, and `other`."""
    rows_cached: int = 0
    """Rows of `rows_done` that were not computed: from the row cache, or equal to a row of their shard."""
    tokens: TokenSums | None = None
    """Tokens of the results of all stages, as language models count them; None if none has made any."""
    rows_per_second: float | None = None
    """Recent rate; of an ended job, the overall rate; None while it is paused."""
    eta_s: float | None = None
    """Estimated seconds left; None while there is no estimate."""
    eta_low_s: float | None = None
    """Lower end of the 80 % prediction interval of the seconds left."""
    eta_high_s: float | None = None
    """Upper end of that interval."""
    shards_done: int = 0
    """Shards that are done."""
    shards_running: int = 0
    """Shards that workers have claimed."""
    stream: StreamStatus | None = None
    """How far its stream is read; None for a job that reads none."""
    stages: StageStatuses = StageStatuses()
    """The same figures by stage, in the order in which rows pass through them; by name, too: `stages["embed"]`."""
    created_at: float
    """When it was accepted."""
    started_at: float | None = None
    """When it started; None before."""
    finished_at: float | None = None
    """When it ended; None before."""
    error: JobError | None = None
    """What stopped a failed job."""
    output: str | None = None
    """The output folder, if one was asked for."""
    replay_of: str | None = None
    """The job whose failed rows this one runs again."""
    resumed_from: str | None = None
    """The job whose unfinished output this one continues."""
    tenant: str = DEFAULT_TENANT
    """The tenant whose token submitted it."""
    cost: JobCost | None = None
    """What it has cost."""
    request: JobForm | None = None
    """What it was run with, secrets hidden; None in lists."""
    note: str | None = None
    """What the job is blocked by, when a user can fix it."""

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self.state.is_final

    @property
    def title(self) -> str:
        """Its operator; of several stages, their names in order: `chunk → embed`."""
        return " → ".join(stage.name for stage in self.stages) if len(self.stages) > 1 else self.operator

    def __str__(self) -> str:
        total = "?" if self.rows_total is None else f"{self.rows_total:,}"
        failed = f", {self.rows_dead:,} failed" if self.rows_dead else ""
        reason = self.error.message if self.error else self.note
        return (
            f"{self.id} {self.state}: {self.title}, {self.rows_done + self.rows_dead:,} of {total} rows{failed}"
            f"{f'; {reason}' if reason else ''}"
        )


class CheckedJob(Frozen):
    """What the service found in a request that it checked and did not submit."""

    rows_total: int
    """Rows of the input."""
    rows_total_is_exact: bool
    """Whether they are counted, not estimated from bytes."""
    columns: dict[str, str]
    """Columns of the input, with their Arrow types."""
    notes: list[str] = []
    """What the job would wait for if it were submitted now: pools without workers."""
