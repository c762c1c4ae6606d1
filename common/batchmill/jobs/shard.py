"""The unit of work: a run of consecutive rows of a stage, and its state."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NewType, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIELDS_ALWAYS = 4  # of a slice: the others are written where they are not 0 or empty
FIRST_ROWS = 64  # at most, of the shards of a stage before anything of it is timed

S = TypeVar("S", bound="Shard")

ShardId = NewType("ShardId", tuple[int, ...])
"""The path of a shard: `(17,)` as planned, `(17, 0)` and `(17, 1)` once split. Tuple order is input order."""


def format_shard_id(shard_id: ShardId) -> str:
    """`(17, 1)` as `"17.1"`, the form used in keys, file names and messages."""
    return ".".join(map(str, shard_id))


def parse_shard_id(text: str) -> ShardId:
    """The inverse of `format_shard_id`. Raises `ValueError` for anything else."""
    return ShardId(tuple(int(part) for part in text.split(".")))


def rows_of_plan(plan: str) -> int:
    """How many rows a shard has, from what `Shard.plan` wrote."""
    return int(json.loads(plan)[1])


def part_stem(shard_id: ShardId, token: int) -> str:
    """The name of what an attempt stores, without its ending: "part-00000017-a2", "part-00000017.00000001-a2".

    The order of names is the order of rows: all numbers have the same width, unless they exceed eight digits.
    """
    return f"part-{'.'.join(f'{part:08}' for part in shard_id)}-a{token}"


class ShardState(StrEnum):
    """The state of a shard, and who changes it next."""

    PLANNED = "planned"  # the planner wrote it; the dispatcher queues it, or the submission of a small job
    QUEUED = "queued"  # the dispatcher published it, and takes it back in a pause; a worker claims it
    RUNNING = "running"  # a worker holds its lease; that worker commits it, or the recoverer finds the lease lost, or
    # the dispatcher queues it a second time, as it takes too long
    WAITING = "waiting"  # an attempt failed; the dispatcher queues it when its retry is due
    SPLIT = (
        "split"  # its halves took over, as the recoverer lost it too often, or its parts, as it made too much; final
    )
    DONE = "done"  # its results are committed; final

    @property
    def is_final(self) -> bool:
        """Whether no other state follows."""
        return self in (ShardState.DONE, ShardState.SPLIT)


SHARD_MOVES: dict[ShardState, frozenset[ShardState]] = {
    ShardState.PLANNED: frozenset({ShardState.QUEUED}),
    ShardState.QUEUED: frozenset({ShardState.RUNNING, ShardState.WAITING, ShardState.DONE}),
    ShardState.RUNNING: frozenset({ShardState.DONE, ShardState.WAITING, ShardState.SPLIT, ShardState.QUEUED}),
    ShardState.WAITING: frozenset({ShardState.QUEUED, ShardState.DONE}),
    ShardState.SPLIT: frozenset(),
    ShardState.DONE: frozenset(),
}
"""The state machine: where a shard may go from each state. `docs/architecture.md` draws it; a test compares."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A stretch of one file of a source, or of one part of the stage before.

    `start` and `stop` are row numbers in Parquet and Arrow files and byte offsets in line formats; `rows` is how
    many rows are between them. `line` is the 1-based line of the first row, 0 where a format has no lines.
    `staged` is the blob that holds the stretch when the file itself cannot be cut (compressed text): then `start`
    and `stop` are byte offsets in that blob. `row` is the number of the first row in the source, where only a sample
    of the rows is read. `part` is the part of the stage before that has the rows, see `part_of`. `offsets` is the
    range of a stream, see `OffsetRange`; of a watched folder, the number of the file.
    """

    file: int
    start: int
    stop: int
    rows: int
    line: int = 0
    staged: str = ""
    row: int = 0
    part: str = ""
    offsets: str = ""

    def fields(self) -> list[int | str]:
        """Its values, to be stored as JSON; `Slice(*fields)` is the slice again."""
        values: list[int | str] = [
            *(self.file, self.start, self.stop, self.rows, self.line),
            *(self.staged, self.row, self.part, self.offsets),
        ]
        while len(values) > _FIELDS_ALWAYS and not values[-1]:
            values.pop()
        return values


@dataclass(frozen=True, slots=True)
class Shard:
    """A run of consecutive rows of a stage: the unit of dispatch, lease, retry and commit."""

    job_id: str
    stage: int
    shard_id: ShardId
    first_row: int  # 0-based index of its first row in the stage's input
    rows: int
    slices: tuple[Slice, ...]  # where its rows are, in order
    skip: int = 0  # rows of the slices before its first row: a half of a split shard reads its parent's slices
    state: ShardState = ShardState.PLANNED
    token: int = 0  # the number of the current attempt: the fencing token; 0 before the first
    failures: int = 0  # attempts that ended in an error
    losses: int = 0  # attempts whose lease ran out
    checkpoint: str = ""  # the blob with what earlier attempts have done of it; "" when there is none
    worker: str = ""  # who has it in hand, while it runs
    stalled_s: float = 0.0  # how long its last attempts, all in a row, have waited for storage
    fitting_rows: int = 0  # of the part before it, if an attempt has left it as the rest of a shard; else 0

    @property
    def ref(self) -> ShardRef:
        """The ids and the token of its current attempt."""
        return ShardRef(self.job_id, self.stage, self.shard_id, self.token)

    def plan(self) -> str:
        """The part that never changes, as JSON: what the ledger keeps of the planner's work."""
        rest = [self.fitting_rows] if self.fitting_rows else []
        return json.dumps([self.first_row, self.rows, self.skip, [one.fields() for one in self.slices], *rest])

    @classmethod
    def from_plan(cls, job_id: str, stage: int, shard_id: ShardId, plan: str | bytes, **state: Any) -> Self:
        """A shard from what `plan` wrote and its present state."""
        first_row, rows, skip, slices, *rest = json.loads(plan)
        pieces = tuple(Slice(*piece) for piece in slices)
        fitting_rows = int(rest[0]) if rest else 0
        numbers = (int(first_row), int(rows), pieces, int(skip))
        return cls(job_id, stage, shard_id, *numbers, fitting_rows=fitting_rows, **state)

    def with_slices(self, slices: Sequence[Slice]) -> Self:
        """The same rows, stored elsewhere."""
        return replace(self, slices=tuple(slices))

    def halves(self) -> tuple[Self, Self]:
        """The two shards that take over from this one, which has at least two rows.

        They keep its losses, so that a row which ends its process is found in as few attempts as there are halvings.
        Their tokens continue from its own: an old attempt of it may still write a part, under the name of a half.
        """
        child = replace(self, state=ShardState.WAITING, failures=0, fitting_rows=0)
        return _cut(child, self.rows // 2, ShardId((*self.shard_id, 0)), ShardId((*self.shard_id, 1)))

    def part_and_rest(self, rows: int) -> tuple[Self, Self]:
        """Return its first rows, for an attempt that commits only these, and the shard that has the others then.

        They are parts 0 and 1 of this shard; if it is such a rest itself, it is the part, and the rest follows it.
        """
        if self.fitting_rows:
            *split, number = self.shard_id
        else:
            split, number = list(self.shard_id), 0
        part, rest = _cut(self, rows, ShardId((*split, number)), ShardId((*split, number + 1)))
        rest = replace(rest, state=ShardState.WAITING, failures=0, losses=0, stalled_s=0.0, checkpoint="")
        return part, replace(rest, fitting_rows=rows)


def _cut(shard: S, rows: int, left: ShardId, right: ShardId) -> tuple[S, S]:
    """Return a shard of its first rows, and one of the others."""
    behind = replace(shard, first_row=shard.first_row + rows, skip=shard.skip + rows, rows=shard.rows - rows)
    return replace(shard, shard_id=left, rows=rows), replace(behind, shard_id=right)


@dataclass(frozen=True, slots=True)
class ShardRef:
    """One attempt of one shard, by ids and token only: what a Celery message holds and a lease names."""

    job_id: str
    stage: int
    shard_id: ShardId
    token: int

    @property
    def attempt_key(self) -> str:
        """The name of this attempt in the ledger's sorted sets and in messages: "job|stage|shard|token"."""
        return f"{self.job_id}|{self.stage}|{format_shard_id(self.shard_id)}|{self.token}"

    @classmethod
    def from_key(cls, key: str | bytes) -> Self:
        """The attempt of an `attempt_key`."""
        text = key.decode() if isinstance(key, bytes) else key
        job_id, stage, shard_id, token = text.split("|")
        return cls(job_id, int(stage), parse_shard_id(shard_id), int(token))


def part_of(shard_id: ShardId, token: int) -> str:
    """Name the results of a committed attempt in a slice: "17.1-a2"."""
    return f"{format_shard_id(shard_id)}-a{token}"


def parse_part(part: str) -> tuple[ShardId, int]:
    """The inverse of `part_of`. Raises `ValueError` for anything else."""
    shard, _, token = part.rpartition("-a")
    return parse_shard_id(shard), int(token)


def checkpoint_folder(job_id: str) -> str:
    """Name the blob folder of a job's checkpoints."""
    return f"jobs/{job_id}/checkpoints"


def checkpoint_name(ref: ShardRef) -> str:
    """Name the blob with what an attempt has done of its shard, for the next one."""
    return f"{checkpoint_folder(ref.job_id)}/{ref.stage}/{part_stem(ref.shard_id, ref.token)}.arrow"


def is_of_shard_before(name: str, shard: int) -> bool:
    """Return whether a blob is of a planned shard before this one; one whose name has no shard is of none.

    A shard is 17 in `…/part-00000017.00000001-a2.arrow`, and in `…/17-a2`.
    """
    digits = name.rpartition("/")[2].removeprefix("part-").partition("-")[0].partition(".")[0]
    return digits.isdecimal() and int(digits) < shard
