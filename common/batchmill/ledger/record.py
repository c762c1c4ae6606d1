"""A job as the ledger has it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from batchmill.cost import Spent, sums
from batchmill.job import DEFAULT_TENANT, JobError, JobSpec, JobState


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What the ledger knows of a job. Times are milliseconds since the epoch; counters count rows or shards."""

    id: str
    spec: JobSpec
    state: JobState
    created_at: int
    started_at: int | None
    paused_at: int | None  # while it is paused
    stopping_at: int | None
    finished_at: int | None
    error: JobError | None
    cursor: str
    planned: bool  # whether the source's end was reached
    rows_total: int | None
    rows_exact: bool
    rows_planned: int
    rows_done: int
    rows_dead: int
    shards_planned: int
    shards_live: int
    shards_queued: int
    shards_running: int
    shards_done: int
    busy_us: int  # device time of committed attempts
    rows_timed: int  # rows that time was spent on
    bytes_in: int
    paces: str  # the last intervals between commits, see `commit.lua`
    rate_at: int | None  # since when the next one goes on
    rate_rows: int  # settled by then
    last_queued_at: int | None  # when a shard of it was last queued, or it was resumed
    paused_ms: int  # in all pauses that are over, since it started
    replay_of: str | None = None  # the job whose dead letters this one runs again
    resumed_from: str | None = None  # the job whose output this one goes on with
    adopts: bool = False  # whether what that job left is still to be taken over
    operator_version: str = ""
    tenant: str = DEFAULT_TENANT
    budget_nano: int | None = None  # in billionths of the currency's unit, as are all costs
    cost_nano: int = 0
    costs: tuple[tuple[int, Spent], ...] = ()  # by stage
    rows_cached: int = 0

    @classmethod
    def from_hash(cls, job_id: str, fields: dict[bytes, bytes]) -> JobRecord:
        """A record from the job's hash."""
        text = {name.decode(): value.decode() for name, value in fields.items()}

        def number(name: str) -> int:
            return int(text.get(name) or 0)

        def moment(name: str) -> int | None:
            return int(text[name]) if text.get(name) else None

        return cls(
            id=job_id,
            spec=_spec(text["spec"]),
            state=JobState(text["state"]),
            created_at=number("created_at"),
            started_at=moment("started_at"),
            paused_at=moment("paused_at"),
            stopping_at=moment("stopping_at"),
            finished_at=moment("finished_at"),
            error=JobError.model_validate_json(text["error"]) if text.get("error") else None,
            cursor=text.get("cursor", ""),
            planned=text.get("planned") == "1",
            rows_total=moment("rows_total"),
            rows_exact=text.get("rows_exact") == "1",
            rows_planned=number("rows_planned"),
            rows_done=number("rows_done"),
            rows_dead=number("rows_dead"),
            shards_planned=number("shards_planned"),
            shards_live=number("shards_live"),
            shards_queued=number("shards_queued"),
            shards_running=number("shards_running"),
            shards_done=number("shards_done"),
            busy_us=number("busy_us"),
            rows_timed=number("rows_timed"),
            bytes_in=number("bytes_in"),
            paces=text.get("paces", ""),
            rate_at=moment("rate_at"),
            rate_rows=number("rate_rows"),
            last_queued_at=moment("last_queued_at"),
            paused_ms=number("paused_ms"),
            replay_of=text.get("replay_of"),
            resumed_from=text.get("resumed_from"),
            adopts=text.get("adopts") == "1",
            operator_version=text.get("operator_version", ""),
            tenant=text.get("tenant", DEFAULT_TENANT),
            budget_nano=moment("budget_nano"),
            cost_nano=number("cost_nano"),
            costs=_costs(text),
            rows_cached=number("rows_cached"),
        )


@lru_cache(maxsize=1024)
def _spec(text: str) -> JobSpec:
    return JobSpec.model_validate_json(text)


def _costs(text: dict[str, str]) -> tuple[tuple[int, Spent], ...]:
    """What each stage cost, from the fields "cost STAGE …"."""
    own = {name.removeprefix("cost "): value for name, value in text.items() if name.startswith("cost ")}
    return tuple((int(stage), spent) for stage, spent in sums(own).items())
