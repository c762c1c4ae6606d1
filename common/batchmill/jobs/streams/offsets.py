"""How far a job has read its stream: the cursor of its first stage, and the slices of its shards. Pure.

A position in a partition is an offset, text that only the source understands. A range is what is behind one offset, up
to and with another one: `(after, last]`. The plan of a shard has such a range for each partition that it reads, and
the script that writes it moves the cursor, by compare-and-set: so no offset is left out or planned twice, and a shard
can be read again for as long as the source has the rows.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Self

from batchmill.jobs.shard import Slice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class PartitionOffset(NamedTuple):
    """How far a partition is planned."""

    after: str  # the offset of the last row that is planned; of none: that before the first
    position: int = 0  # rows of the partition up to there, as the source counts them
    time_ms: int | None = (
        None  # the highest event time of those that this job has planned, milliseconds since the epoch
    )
    at_ms: int | None = None  # when the last of them was planned
    lost: int = 0  # rows that the source had deleted before they were planned


@dataclass(frozen=True, slots=True)
class StreamOffsets:
    """How far a stream is planned, by partition."""

    partitions: Mapping[str, PartitionOffset]

    def write(self) -> str:
        """The offsets as compact JSON: the cursor of the stage."""
        return json.dumps({name: list(one) for name, one in sorted(self.partitions.items())}, separators=(",", ":"))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `write`; "" is the beginning."""
        return cls({name: PartitionOffset(*one) for name, one in json.loads(text).items()} if text else {})

    def at(self, partition: str, offset: PartitionOffset) -> StreamOffsets:
        """Return the offsets with that of one partition changed."""
        return replace(self, partitions={**self.partitions, partition: offset})

    @property
    def rows_lost(self) -> int:
        """The rows that were deleted at the source before they were planned."""
        return sum(one.lost for one in self.partitions.values())

    def watermark_ms(self, now_ms: int, idle_s: float) -> int | None:
        """Return up to which event time the rows are planned: the minimum over the partitions that are not idle.

        An idle one has had no row for `idle_s`; if all are, the highest time of them counts. None before the first row.
        """
        known = [one for one in self.partitions.values() if one.time_ms is not None]
        active = [one for one in known if one.at_ms is not None and now_ms - one.at_ms <= idle_s * 1000]
        if active:
            return min(one.time_ms for one in active if one.time_ms is not None)
        return max((one.time_ms for one in known if one.time_ms is not None), default=None)


def range_slice(partition: str, after: str, last: str, rows: int) -> Slice:
    """Write a range of a partition as a slice."""
    return Slice(0, 0, 0, rows, offsets=json.dumps([partition, after, last], separators=(",", ":")))


class OffsetRange(NamedTuple):
    """A range of a partition."""

    partition: str
    after: str
    last: str

    @classmethod
    def of(cls, piece: Slice) -> OffsetRange:
        """Read the range from a slice."""
        return cls(*json.loads(piece.offsets))


def settled_offsets(planned: StreamOffsets, live: Iterable[Slice]) -> dict[str, str]:
    """Return up to which offset the rows of each partition are settled.

    live: the slices of the shards of the first stage that are not settled, lowest shard first. Shards read a partition
    in its order, so what is before the first of them is settled.
    """
    found = {name: one.after for name, one in planned.partitions.items()}
    first: dict[str, str] = {}
    for piece in live:
        one = OffsetRange.of(piece)
        first.setdefault(one.partition, one.after)
    return found | first
