"""Jobs, stages and shards in the plain model of the ledger. Times are milliseconds."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from batchmill.jobs.cost import PARTS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchmill.jobs.job import JobSpec, StageSpec
    from batchmill.jobs.shard import Shard, ShardId

LEASE_MS = 10_000
START_MS = 1_000_000_000_000
DUE = {
    "running": "completed",
    "paused": "completed",
    "cancelling": "cancelled",
    "failing": "failed",
    "expiring": "expired",
}
"""The final state that each state of a job leads to."""

COST_FIELDS = ["rows", "attempts", *(f"{part}_{unit}" for part in PARTS for unit in ("us", "nano"))]
JOB_FIELDS = ["cost_nano", "budget_nano", "state", "inline_bytes", "stages_open"]
"""The fields of a job's hash that the model answers for."""

STAGE_FIELDS = [
    *(f"cost {name}" for name in COST_FIELDS),
    "cursor",
    "planned",
    "rows_planned",
    "rows_done",
    "rows_dead",
    "shards_planned",
    "shards_live",
    "shards_queued",
    "shards_running",
    "stragglers",
    "shards_speculated",
    "shards_done",
    "rows_filtered",
    "prompt_tokens",
    "cached_tokens",
    "generated_tokens",
    "rows_out",
    "bytes_in",
    "bytes_out",
    "bytes_freed",
    "freed",
    "freed_at",
]
"""The same of the hash of a stage."""


@dataclass
class Piece:
    """A live shard in the model. at: when it was queued, when its lease ends, or when its retry is due (ms)."""

    first_row: int
    rows: int
    skip: int = 0
    state: str = "planned"
    token: int = 0
    failures: int = 0
    losses: int = 0
    holder: str = ""
    checkpoint: str = ""
    metered: str = ""  # "price used at sharers"
    at: int = 0
    straggler: str = ""  # the token of an attempt that runs on, while the shard is queued again
    straggler_holder: str = ""
    straggler_metered: str = ""
    straggler_at: int = 0  # when its lease ends

    def straggle(self) -> None:
        """Its attempt becomes a straggler."""
        self.straggler, self.straggler_holder, self.straggler_metered = str(self.token), self.holder, self.metered
        self.straggler_at, self.holder, self.metered = self.at, "", ""

    def end_straggler(self) -> None:
        self.straggler, self.straggler_holder, self.straggler_metered, self.straggler_at = "", "", "", 0

    def wait(self, until: int, blame: str = "") -> None:
        self.state, self.holder, self.metered, self.at = "waiting", "", "", until
        if blame:
            setattr(self, blame, getattr(self, blame) + 1)

    def fields(self) -> dict[str, str]:
        return {name: str(value) for name, value in asdict(self).items() if name not in ("at", "straggler_at")}


@dataclass(frozen=True)
class Part:
    """What an attempt has committed."""

    first_row: int
    rows: int  # of its input
    results: int
    nbytes: int
    inline: int = 0  # bytes in the ledger
    is_adopted: bool = False  # of a replay


@dataclass
class Stage:
    """A stage of a job in the model."""

    number: int
    spec: StageSpec
    is_last: bool
    cursor: str = ""
    planned: bool = False
    live: dict[ShardId, Piece] = field(default_factory=dict)  # planned ones in input order
    left: int = 0  # shards that were live when the job ended
    settled: dict[ShardId, str] = field(default_factory=dict)
    parts: dict[ShardId, Part] = field(default_factory=dict)  # what was committed
    was_queued: bool = False  # whether any of its shards ever was
    shards_planned: int = 0
    shards_speculated: int = 0
    rows_planned: int = 0
    bytes_in: int = 0
    rows_done: int = 0
    rows_dead: int = 0
    rows_filtered: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    freed: str = ""
    freed_at: int = 0
    bytes_freed: int = 0
    adopted: set[str] = field(default_factory=set)  # replays
    costs: Counter[str] = field(default_factory=Counter)

    @property
    def is_settled(self) -> bool:
        """Whether every shard that it will ever have is settled."""
        return self.planned and not (self.live or self.left)

    def plan(self, shards: Sequence[Shard], sizes: Sequence[int], cursor: str, *, at_end: bool) -> None:
        self.cursor, self.planned = cursor, at_end
        for shard, nbytes in zip(shards, sizes, strict=True):
            self.live[shard.shard_id] = Piece(shard.first_row, shard.rows)
            self.rows_planned += shard.rows
            self.bytes_in += nbytes
            self.shards_planned += 1

    def queue(self, shard_id: ShardId, now: int) -> None:
        piece = self.live[shard_id]
        piece.state, piece.token, piece.at = "queued", piece.token + 1, now
        self.was_queued = True

    def names(self, state: str) -> list[ShardId]:
        return [shard_id for shard_id, piece in self.live.items() if piece.state == state]

    def is_complete(self, number: int) -> bool:
        """Whether nothing of a planned shard is live."""
        own = [shard_id for shard_id in (*self.live, *self.settled) if shard_id[0] == number]
        return bool(own) and not any(shard_id in self.live for shard_id in own)

    def prefix(self) -> list[tuple[int, list[Part]]]:
        """The planned shards up to the first that is not settled, each with its parts in order."""
        found = []
        for number in range(self.shards_planned):
            if not self.is_complete(number):
                break
            found.append((number, [part for key, part in sorted(self.parts.items()) if key[0] == number]))
        return found

    def ready(self) -> Iterator[tuple[int, ShardId | None, Part | None]]:
        """What was committed before the first row that was not, by planned shard; behind each complete one, its end."""
        for number in range(self.shards_planned):
            for key in sorted(key for key in (*self.live, *self.parts) if key[0] == number):
                if key in self.live:
                    return
                yield number, key, self.parts[key]
            if not self.is_complete(number):
                return
            yield number + 1, None, None

    def fields(self) -> dict[str, str]:
        """What the hash of the stage must hold: every counter counted anew."""
        counted = {f"shards_{state}": len(self.names(state)) for state in ("queued", "running")}
        counted |= {"stragglers": sum(bool(piece.straggler) for piece in self.live.values())}
        counted |= {"planned": int(self.planned), "shards_live": len(self.live) + self.left}
        counted |= {"shards_done": len(self.parts)}
        if not self.is_last:
            own_parts = [part for part in self.parts.values() if not part.is_adopted]
            counted |= {"rows_out": sum(part.results for part in own_parts)}
            counted |= {"bytes_out": sum(part.nbytes for part in own_parts)}
        own: dict[str, Any] = {name: getattr(self, name) for name in STAGE_FIELDS if hasattr(self, name)}
        own |= {f"cost {name}": self.costs[f"cost {name}"] for name in COST_FIELDS}
        own |= counted
        return {name: str(own.get(name, 0) or 0) for name in STAGE_FIELDS}


@dataclass
class Job:
    """A job in the model; its state is "" once it is deleted."""

    id: str
    spec: JobSpec
    state: str = "pending"
    started: bool = False
    ends_at_commit: bool = False
    inline_bytes: int = 0
    ended_at: int = 0
    roots_dead: int = 0
    dead: Counter[str] = field(default_factory=Counter)  # by error type
    is_between: bool = False  # whether its results between stages are to be deleted
    budget_nano: int = 0  # 0: none
    cost_nano: int = 0
    stages: list[Stage] = field(default_factory=list)

    def __post_init__(self) -> None:
        last = len(self.spec.stages) - 1
        self.stages = [Stage(number, spec, number == last) for number, spec in enumerate(self.spec.stages)]

    @property
    def first(self) -> Stage:
        """The stage that reads its source."""
        return self.stages[0]

    @property
    def is_settled(self) -> bool:
        """Whether all of its stages are."""
        return all(stage.is_settled for stage in self.stages)

    def is_awaited(self, stage: Stage) -> bool:
        """Whether a stage that has given out shards has none behind it that can go on without more of its results."""
        begun = stage.was_queued or len(stage.live) + stage.left < stage.shards_planned
        behind = self.stages[stage.number + 1 : stage.number + 2]
        return begun and any(not one.live and not one.left for one in behind)

    def stop(self, state: str) -> bool:
        changes = self.state in ("pending", "running", "paused")
        self.state = state if changes else self.state
        return changes

    def names(self, state: str) -> list[tuple[Stage, ShardId]]:
        return [(stage, shard_id) for stage in self.stages for shard_id in stage.names(state)]

    def fields(self) -> dict[str, str]:
        """What the job's hash must hold."""
        own = {name: getattr(self, name) for name in JOB_FIELDS if hasattr(self, name)}
        own["stages_open"] = sum(not stage.is_settled for stage in self.stages)
        return {name: str(own[name] or 0) for name in JOB_FIELDS}
