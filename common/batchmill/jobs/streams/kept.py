"""Which results of a stream are kept: by age, by size and by number. Pure."""

from __future__ import annotations

from typing import NamedTuple, Self

MAX_SHARDS = 200_000
"""Settled shards that the ledger has entries of, about 100 bytes each; the oldest results are deleted first."""

MARKS = 32
"""Moments between which the age of a shard is known."""


class Mark(NamedTuple):
    """A moment, and the first shard that was not settled then, or behind one that was not."""

    at_ms: int
    shard: int


class KeptShards(NamedTuple):
    """How far a stage of a stream is settled, and of which of its shards something is kept."""

    compacted: int = 0  # the first shard of which the ledger has entries
    first: int = 0  # the first shard whose results may be read; what is before it is deleted at the next step
    settled: int = 0  # the first shard that is not settled, as far as was looked
    nbytes: int = 0  # of the results from `first` to `settled`
    marks: tuple[Mark, ...] = ()  # oldest first

    def write(self) -> str:
        """The value as text."""
        marks = (f"{mark.at_ms}:{mark.shard}" for mark in self.marks)
        return " ".join([*map(str, self[:4]), *marks])

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `write`; "" is the beginning."""
        if not text:
            return cls()
        compacted, first, settled, nbytes, *marks = text.split()
        pairs = (mark.split(":") for mark in marks)
        return cls(
            int(compacted),
            int(first),
            int(settled),
            int(nbytes),
            tuple(Mark(int(at), int(shard)) for at, shard in pairs),
        )

    def marked(self, now_ms: int, keep_s: float) -> KeptShards:
        """Return the value with a mark for now, if the last one is old enough; marks that say no more are dropped."""
        marks = self.marks
        if not marks or now_ms - marks[-1].at_ms >= keep_s * 1000 / MARKS:
            marks = (*marks, Mark(now_ms, self.settled))
        expired = [mark for mark in marks if mark.at_ms <= now_ms - keep_s * 1000]
        return self._replace(marks=marks[max(len(expired) - 1, 0) :])

    def expired(self, now_ms: int, keep_s: float) -> int:
        """Return the first shard that is to be kept by its age and by the number of shards."""
        old = [mark.shard for mark in self.marks if mark.at_ms <= now_ms - keep_s * 1000]
        return max([self.first, self.settled - MAX_SHARDS, *old])
