"""The job model: what a user asks for, what the ledger keeps of it, and its status."""

from __future__ import annotations

import secrets
import time
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_INLINE_BYTES = 64 * 1024
"""Rows of at most this many bytes (as an Arrow stream) ride in the ledger; more lie in the blob store."""

MAX_PARAMS_BYTES = 64 * 1024
DEFAULT_POOL = "default"
DEFAULT_TENANT = "default"
POOL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"

SourceFormat = Literal["parquet", "jsonl", "csv", "arrow", "text"]
OutputFormat = Literal["parquet", "jsonl"]
Name = Annotated[str, Field(min_length=1, max_length=128)]


class Frozen(BaseModel):
    """A value: compared by content, never changed, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class JobState(StrEnum):
    """The state of a job, and who changes it next."""

    PENDING = "pending"  # accepted; the planner starts it
    RUNNING = "running"  # shards are planned or at work; the finisher ends it
    PAUSED = "paused"  # a user or its budget holds it: nothing is planned, queued or claimed; a user resumes it
    CANCELLING = "cancelling"  # a user stopped it; the finisher ends it when its workers have let go
    FAILING = "failing"  # an error stopped it; the finisher ends it when its workers have let go
    EXPIRING = "expiring"  # its deadline passed; the finisher ends it when its workers have let go
    COMPLETED = "completed"  # every row is done or dead; final
    CANCELLED = "cancelled"  # stopped by a user, what was done is kept; final
    FAILED = "failed"  # stopped by an error, what was done is kept; final
    EXPIRED = "expired"  # stopped by its deadline, what was done is kept; final

    @property
    def is_final(self) -> bool:
        """Whether no other state follows."""
        return self in (JobState.COMPLETED, JobState.CANCELLED, JobState.FAILED, JobState.EXPIRED)

    @property
    def takes_shards(self) -> bool:
        """Whether more of it may be planned."""
        return self in (JobState.PENDING, JobState.RUNNING)

    @property
    def is_stopping(self) -> bool:
        """Whether its workers are asked to let go."""
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


OneCharacter = Annotated[str, Field(min_length=1, max_length=1)]


class CsvDialect(Frozen):
    """How CSV files are written. Each character is one of ASCII."""

    delimiter: OneCharacter = ","
    quote: OneCharacter | None = '"'  # None: a quote is a character like any other
    escape: OneCharacter | None = None  # before a character that is to lose its meaning
    header: bool | list[str] = True  # the first record names the columns; or their names, for files without such a one
    null_values: list[str] | None = None  # words that mean no value, in text too; None: an empty value outside text
    encoding: str = "utf-8"


class FileSource(Frozen):
    """Files to read: a file, a folder, a glob, or several of them, as paths or URIs the service can see."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    path: str | list[str]
    format: SourceFormat | None = None  # None: by the files' endings
    columns: list[str] | None = None  # read only these
    csv: CsvDialect | None = None
    types: dict[str, str] | None = Field(default=None, alias="schema")  # Arrow types of columns of CSV and JSON Lines
    json_text: list[str] | None = None  # columns of JSON Lines to read as JSON text, whatever they hold
    missing_columns: Literal["fail", "null"] = "fail"  # what a column is in a Parquet or Arrow file that lacks it
    hive_columns: bool = True  # whether folders named `column=value` give columns
    path_column: Name | None = None  # a column to add with the file that each row is from
    on_bad_line: Literal["fail", "dead"] = "fail"  # what becomes of a job, or a row, that cannot be read


class UploadSource(Frozen):
    """Rows that the client has put into the blob store piece by piece."""

    upload: str
    parts: int = Field(ge=0)


class OutputSpec(Frozen):
    """A folder for the results, as a path or URI the service can see."""

    path: str
    format: OutputFormat = "parquet"


class RetryPolicy(Frozen):
    """How often rows and shards are tried, how long they wait in between, and how many rows may be given up on."""

    max_attempts: int = Field(default=3, ge=1, le=1000)  # of a row that raises, and of a shard whose operator fails
    backoff_s: float = Field(default=1.0, ge=0, le=3600)  # the longest wait before the second attempt; then doubled
    backoff_max_s: float = Field(default=60.0, ge=0, le=86_400)
    retry_on: list[str] | None = None  # only errors of these types are tried again; None: all
    never_on: list[str] = []  # errors of these types are not tried again
    max_dead: float | None = Field(default=None, ge=0)  # more dead rows fail the job; below 1: that share of its rows


class BatchPolicy(Frozen):
    """How many rows go to the device at once. Of several limits, the lowest holds; units are the operator's costs."""

    size: int | None = Field(default=None, ge=1, le=1_000_000)  # rows, fixed; None: as the operator says
    target_overhead: float = Field(default=0.05, gt=0, lt=1)  # the share of a batch's time that its size does not touch
    target_latency_s: float | None = Field(default=None, gt=0, le=3600)  # no batch should take longer
    max_units: float | None = Field(default=None, gt=0)  # no batch costs more, unless it is a single row


class JobSpec(Frozen):
    """What a job is to do. Validated whole before anything is stored; never changed afterwards."""

    operator: Name
    params: dict[str, Any] = {}
    source: FileSource | UploadSource | None = None  # None: the rows ride inline
    output: OutputSpec | None = None
    carry: list[str] | None = None  # input columns that results keep; None: all of them
    on_null: Literal["dead", "fail"] = "dead"  # what becomes of a row without a value that the operator needs
    name: Name | None = None
    pool: Annotated[str, Field(pattern=POOL_PATTERN)] = DEFAULT_POOL
    priority: int = Field(default=0, ge=-100, le=100)  # higher goes first
    deadline_at: float | None = Field(default=None, gt=0, lt=1e11)  # seconds since the epoch
    retry: RetryPolicy = RetryPolicy()
    batch: BatchPolicy = BatchPolicy()
    cache: bool = False  # whether rows may be taken from the row cache, and new results put there
    budget: float | None = Field(default=None, ge=1e-6, le=1e6)  # in the service's currency; cost reaches it: paused


class JobRequest(JobSpec):
    """The body of `POST /v1/jobs`: a spec, and the rows themselves when they are few."""

    rows: list[dict[str, Any]] | None = None
    rows_arrow: str | None = None  # an Arrow IPC stream in base64: like `rows`, with exact types
    idempotency_key: Name | None = None

    def spec(self) -> JobSpec:
        """The request without its rows and its key."""
        return JobSpec(**{name: getattr(self, name) for name in JobSpec.model_fields})


class JobError(Frozen):
    """Why a job failed."""

    code: str
    message: str
    details: dict[str, Any] = {}


class CostParts(Frozen):
    """Time of devices, or the money it costs, by what it went into."""

    useful: float = 0.0  # rows whose results are kept
    padding: float = 0.0  # what batches of them were padded with
    retried: float = 0.0  # in vain: batches that failed, attempts that were lost or put back with nothing kept
    load: float = 0.0  # setting models up
    idle: float = 0.0  # the device waited for its attempts: they loaded rows, stored results, called Python


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
    stages: list[StageCost] = []


class StageStatus(Frozen):
    """How far a stage of a job is."""

    operator: str
    rows_total: int | None = None  # that it will be given; None until it is known
    rows_done: int = 0
    rows_dead: int = 0
    share: float | None = None  # of its rows that are done or dead, 0 to 1; None until the total is known
    shards_done: int = 0
    shards_running: int = 0


class JobStatus(Frozen):
    """The status of a job. Times are seconds since the epoch."""

    id: str
    state: JobState
    operator: str
    name: str | None = None
    pool: str = DEFAULT_POOL
    priority: int = 0
    deadline_at: float | None = None  # when it expires, unless it has completed
    rows_total: int | None = None  # None until the source has been looked at
    rows_total_is_estimate: bool = False  # whether rows_total is reckoned from bytes, its end not reached yet
    rows_done: int = 0
    rows_dead: int = 0  # rows given up on; they are not among the results
    dead_by_error: dict[str, int] = {}  # of them, by the type of their error: the most frequent ones, and "other"
    rows_cached: int = 0  # of rows_done, those not computed: from the row cache, or equal to a row of their shard
    rows_per_second: float | None = None  # of late; None while it is paused
    eta_s: float | None = None  # seconds left; None while nothing can be said
    eta_low_s: float | None = None  # with `eta_high_s` the range that holds the true time in eight looks of ten
    eta_high_s: float | None = None
    shards_done: int = 0
    shards_running: int = 0
    stages: list[StageStatus] = []  # in the order in which rows go through them
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    error: JobError | None = None
    output: str | None = None  # the output folder, when one was asked for
    replay_of: str | None = None  # the job whose dead letters this one runs again
    resumed_from: str | None = None  # the job whose output this one resumes
    tenant: str = DEFAULT_TENANT  # whose token submitted it
    cost: JobCost | None = None
    request: JobSpec | None = None  # what it was run with, secrets hidden; None in lists
    note: str | None = None  # what the job waits for, when it waits for something a user can mend

    @property
    def is_final(self) -> bool:
        """Whether the job has ended."""
        return self.state.is_final


class PoolStatus(Frozen):
    """What runs and what waits in a pool. Jobs that are paused wait for nobody and count only in `jobs`."""

    name: str
    workers: int
    capacity: int  # shards they take at once
    jobs: int  # that have not ended
    shards_queued: int  # published, and claimed by nobody yet
    shards_running: int
    shards_waiting: int  # planned, or to be tried again
    rows_waiting: int  # of its jobs, not settled yet, as far as their number is known; those that run included
    oldest_queued_s: float | None = None  # for how long the first of the queued shards has waited


class BatchChoice(Frozen):
    """What a worker's controller has decided about the batches of one operator, latest."""

    operator: str
    units: float  # of cost: the size aimed at
    rows: int  # of the batch that ran last
    reason: str  # see `batchmill_worker.batching.controller.Reason`


class WorkerInfo(Frozen):
    """A worker as others see it. Times are seconds since the epoch."""

    name: str  # after its device: "gpu0@host-pid"
    pool: str
    slot: int = 0  # its place among the slots of its supervisor
    device: str  # as its own torch calls the first it sees: "cpu", "cuda:0"
    device_type: str = "cpu"  # the device's model: "NVIDIA A100-SXM4-80GB"; "cpu"
    device_count: int = 1  # more than one: a worker over several GPUs, which are "cuda:0", "cuda:1", …
    memory_bytes: int | None = None  # its share of its devices' memory; None: not known, or the host's
    operators: list[str]
    shards_at_once: int
    pid: int
    started_at: float
    seen_at: float = 0.0
    running: list[str] = []  # the attempts it holds
    models: list[str] = []  # what it has loaded and takes shards for, as `model_key` names it
    loading: list[str] = []  # what it is about to have loaded
    has_room: bool = False  # whether another model fits beside them
    load_s: float = 0.0  # how long loading the slowest of them took
    batches: list[BatchChoice] = []  # the operators it ran last, the latest first


def new_id(kind: str) -> str:
    """A fresh id that sorts by time: `job-…`, 10 characters of milliseconds and 10 of chance, base 32."""
    return f"{kind}-{_base32(time.time_ns() // 1_000_000, 10)}{_base32(secrets.randbits(50), 10)}"


def _base32(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, 32)
        digits = "0123456789abcdefghjkmnpqrstvwxyz"[digit] + digits
    return digits
