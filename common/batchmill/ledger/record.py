"""A job as the ledger has it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from batchmill.cost import Spent, sums
from batchmill.job import DEFAULT_TENANT, JobError, JobSpec, JobState
from batchmill.ledger.encodings import CommitInterval, parse_paces

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class JobRecord:
    """What the ledger knows of a job. Times are milliseconds since the epoch; counters count rows or shards."""

    id: str
    spec: JobSpec
    state: JobState
    created_at: int = 0
    started_at: int | None = None
    paused_at: int | None = None  # while it is paused
    stopping_at: int | None = None
    finished_at: int | None = None
    error: JobError | None = None
    cursor: str = ""
    planned: bool = False  # whether the source's end was reached
    rows_total: int | None = None
    rows_exact: bool = False
    rows_planned: int = 0
    rows_done: int = 0
    rows_dead: int = 0
    shards_planned: int = 0
    shards_live: int = 0
    shards_queued: int = 0
    shards_running: int = 0
    shards_done: int = 0
    busy_us: int = 0  # device time of committed attempts
    rows_timed: int = 0  # rows that time was spent on
    bytes_in: int = 0
    paces: tuple[CommitInterval, ...] = ()  # the last intervals between commits, the latest last
    rate_at: int | None = None  # when the open one began
    rate_rows: int = 0  # settled by then
    last_queued_at: int | None = None  # when a shard of it was last queued, or it was resumed
    paused_ms: int = 0  # in all pauses that are over, since it started
    replay_of: str | None = None  # the job whose dead letters this one runs again
    resumed_from: str | None = None  # the job whose output this one resumes
    adopts: bool = False  # whether what that job left is still to be taken over
    operator_version: str = ""
    tenant: str = DEFAULT_TENANT
    budget_nano: int | None = None  # in billionths of the currency's unit, as are all costs
    cost_nano: int = 0
    costs: tuple[tuple[int, Spent], ...] = ()  # by stage
    rows_cached: int = 0

    @property
    def rows_left(self) -> int:
        """The rows that are neither done nor dead; of a source whose length is not known, those that were seen."""
        known = self.rows_planned if self.rows_total is None else max(self.rows_total, self.rows_planned)
        return max(known - self.rows_done - self.rows_dead, 0)

    @classmethod
    def from_hash(cls, job_id: str, fields: dict[bytes, bytes]) -> JobRecord:
        """A record from the job's hash."""
        text = {name.decode(): value.decode() for name, value in fields.items()}
        known: dict[str, Any] = {name: read(text[name]) for name, read in READERS.items() if text.get(name)}
        return cls(id=job_id, costs=_costs(text), **known)


@lru_cache(maxsize=1024)
def _spec(text: str) -> JobSpec:
    return JobSpec.model_validate_json(text)


def _flag(text: str) -> bool:
    return text == "1"


READERS: Mapping[str, Callable[[str], Any]] = {
    "spec": _spec,
    "state": JobState,
    "error": JobError.model_validate_json,
    "paces": parse_paces,
    **dict.fromkeys(("created_at", "started_at", "paused_at", "stopping_at", "finished_at"), int),
    **dict.fromkeys(("rows_total", "rows_planned", "rows_done", "rows_dead", "rows_timed", "rows_cached"), int),
    **dict.fromkeys(("shards_planned", "shards_live", "shards_queued", "shards_running", "shards_done"), int),
    **dict.fromkeys(("busy_us", "bytes_in", "rate_at", "rate_rows", "last_queued_at", "paused_ms"), int),
    **dict.fromkeys(("budget_nano", "cost_nano"), int),
    **dict.fromkeys(("planned", "rows_exact", "adopts"), _flag),
    **dict.fromkeys(("cursor", "replay_of", "resumed_from", "operator_version", "tenant"), str),
}
"""How a field of a record is read from that of the same name in the job's hash, where it is there and not empty."""


def _costs(text: dict[str, str]) -> tuple[tuple[int, Spent], ...]:
    """What each stage cost, from the fields "cost STAGE …"."""
    own = {name.removeprefix("cost "): value for name, value in text.items() if name.startswith("cost ")}
    return tuple((int(stage), spent) for stage, spent in sums(own).items())
