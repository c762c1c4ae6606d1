"""What the ledger keeps of a settled shard."""

from __future__ import annotations

from dataclasses import dataclass

from batchmill.shard import ShardId


@dataclass(frozen=True, slots=True)
class Settled:
    """A committed shard: whose attempt counts, and how much it brought."""

    shard_id: ShardId
    token: int
    rows: int
    rows_dead: int
    nbytes: int
    first_row: int  # 0-based index of the shard's first row in the job's input
    expanded_to: int | None = None  # how many results the rows made; None: one each
    plan: str = ""  # of a shard that was cut short, because its job stopped: rows of it were left

    @property
    def results(self) -> int:
        """How many results it has."""
        return self.rows if self.expanded_to is None else self.expanded_to

    def entry(self) -> str:
        """What the ledger keeps of it: the inverse of `parse_settled`."""
        entry = f"{self.token} {self.rows} {self.rows_dead} {self.nbytes} {self.first_row}"
        if self.expanded_to is None and not self.plan:
            return entry
        return f"{entry} {'-' if self.expanded_to is None else self.expanded_to} {self.plan}".rstrip()


@dataclass(frozen=True, slots=True)
class SplitUp:
    """A shard that was replaced by its halves."""

    shard_id: ShardId
    parts: int

    def children(self) -> list[ShardId]:
        """The shards that took over, in input order."""
        return [ShardId((*self.shard_id, number)) for number in range(self.parts)]


def parse_settled(shard_id: ShardId, value: bytes | None) -> Settled | SplitUp | None:
    """What the ledger's entry of a settled shard says; None for none."""
    if value is None:
        return None
    if value.startswith(b"split "):
        return SplitUp(shard_id, int(value.removeprefix(b"split ")))
    token, rows, dead, nbytes, first_row, *more = value.split(maxsplit=6)
    expanded_to = int(more[0]) if more and more[0] != b"-" else None
    plan = more[1].decode() if len(more) > 1 else ""
    return Settled(shard_id, int(token), int(rows), int(dead), int(nbytes), int(first_row), expanded_to, plan)
