"""What values of the ledger look like as text, for Python: the counterpart of `scripts/_encodings.lua`.

The description of each is there. One writer and one parser each; a test writes with one language and reads with the
other. The encoding of an attempt is `ShardRef.attempt_key`, that of a shard's plan `Shard.plan`, that of costs
`batchmill.jobs.cost.sums`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from batchmill.jobs.cost import parse_pool_operator
from batchmill.ledger.formats.settlement import Settled, SplitUp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.jobs.cost import Parts
    from batchmill.jobs.shard import ShardId

SEGMENT_BYTES = 6

MAX_BORDERS = 64
"""Places in a part between which the next stage may cut it, where source rows are kept together."""


class CommitInterval(NamedTuple):
    """An interval between commits."""

    length_ms: int
    rows: int  # settled in it


class EndedJob(NamedTuple):
    """A job that its last commit ended."""

    id: str
    pool: str
    operator: str
    rows_done: int
    rows_dead: int


class Request(NamedTuple):
    """What a client's idempotency key names."""

    job_id: str
    digest: str


class StageCursor(NamedTuple):
    """Where the planning of a stage that is not the first continues in the results of the stage before it."""

    shard: int = 0  # the first planned shard with results that are not planned
    row: int = 0  # how many of its results are

    def write(self) -> str:
        """The cursor as text."""
        return f"{self.shard} {self.row}"

    @classmethod
    def parse(cls, text: str) -> StageCursor:
        """The inverse of `write`; "" is the beginning. What a stage that keeps state has behind it is left out."""
        return cls(*map(int, text.split()[:2])) if text else cls()


class FreedParts(NamedTuple):
    """How far the parts of a stage are freed, as the next stage has settled them."""

    shard: int = 0  # the first planned shard of which not all parts are freed
    rows: int = 0  # results of the shards before it, and of those parts of it that are
    next_shard: int = 0  # the first planned shard of the next stage that may not be settled
    next_rows: int = 0  # rows of the shards before it
    parts: int = 0  # how many parts of that shard are freed, from the first on, those without results included

    @property
    def is_any(self) -> bool:
        """Whether any parts are freed."""
        return bool(self.shard or self.parts)

    def write(self) -> str:
        """The progress as text."""
        return " ".join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> FreedParts:
        """The inverse of `write`; "" is the beginning."""
        return cls(*map(int, text.split())) if text else cls()


class SourceRowBorders(NamedTuple):
    """Where source rows begin among the results of a settled shard, at most `MAX_BORDERS` places of it."""

    first: int  # the source row of the first result
    last: int  # and of the last one
    source_rows: int  # how many there are
    step: int  # a place is noted every `step` source rows
    places: tuple[int, ...]  # of the first results of those; the first place, 0, is left out

    @classmethod
    def of(cls, source_rows: Sequence[int], places: Sequence[int]) -> SourceRowBorders:
        """Note where source rows begin. places: of the first result of each of these source rows, one at least."""
        step = -(-len(places) // MAX_BORDERS)
        return cls(source_rows[0], source_rows[-1], len(places), step, tuple(places[step::step]))

    def write(self) -> str:
        """The borders as text."""
        return " ".join(map(str, (*self[:4], *self.places)))

    @classmethod
    def parse(cls, text: str) -> SourceRowBorders:
        """The inverse of `write`."""
        first, last, source_rows, step, *places = map(int, text.split())
        return cls(first, last, source_rows, step, tuple(places))


def write_holder(worker: str, claim: str) -> str:
    """Who holds an attempt. claim: a name of its own for each claim."""
    return f"{worker} {claim}"


def worker_of(holder: bytes) -> str:
    """The worker that holds an attempt."""
    return holder.decode().partition(" ")[0]


def write_settled(shard: Settled) -> str:
    """A settled shard."""
    entry = f"{shard.token} {shard.rows} {shard.rows_dead} {shard.nbytes} {shard.first_row}"
    if shard.expanded_to is not None or shard.plan:
        entry += f" {'-' if shard.expanded_to is None else shard.expanded_to}"
    return f"{entry} {shard.plan}" if shard.plan else entry


def parse_settled(stage: int, shard_id: ShardId, entry: bytes) -> Settled | SplitUp:
    """A settled shard, or one that its halves replaced."""
    if entry.startswith(b"split "):
        return SplitUp(shard_id, int(entry.removeprefix(b"split ")))
    token, rows, dead, nbytes, first_row, *more = entry.split(maxsplit=6)
    expanded_to = int(more[0]) if more and more[0] != b"-" else None
    plan = more[1].decode() if len(more) > 1 else ""
    return Settled(stage, shard_id, int(token), int(rows), int(dead), int(nbytes), int(first_row), expanded_to, plan)


def write_parts(parts: Parts) -> str:
    """What the time of an attempt was spent on."""
    return " ".join(map(str, parts.amounts))


def parse_paces(text: str) -> tuple[CommitInterval, ...]:
    """The last intervals between commits, the latest last."""
    return tuple(CommitInterval(*map(int, pace.split(":"))) for pace in text.split())


def parse_request(text: bytes) -> Request:
    """The job that was submitted under a client's idempotency key."""
    return Request(*text.decode().split(" "))


def parse_ended(text: bytes) -> EndedJob:
    """A job that its last commit ended."""
    job_id, _, rest = text.decode().partition(" ")
    worked_for, rows_done, rows_dead = rest.rsplit(" ", 2)
    return EndedJob(job_id, *parse_pool_operator(worked_for), int(rows_done), int(rows_dead))


def parse_stage_key(member: bytes) -> tuple[str, int]:
    """A job's id and the number of a stage, from a member of an index."""
    job_id, _, stage = member.decode().rpartition("|")
    return job_id, int(stage)


def parse_event(message: bytes) -> tuple[str, str]:
    """Kind and id of an event."""
    kind, _, subject = message.decode().partition(" ")
    return kind, subject


def split_place(place: bytes) -> tuple[bytes, bytes]:
    """The segment of the row cache that has the results of a row, and the place in it."""
    return place[:SEGMENT_BYTES], place[SEGMENT_BYTES:]
