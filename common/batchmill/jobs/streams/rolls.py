"""How far the results of a stream are in the files of its output: roll by roll. Pure.

A roll is a range of settled shards of the last stage, in order. It is decided in the ledger before its files are
written, so that whoever writes them again writes the same rows under the same names; then the next one may be decided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from batchmill.jobs.files import OutputSpec

MAX_ROWS = 1_000_000
MAX_BYTES = 128 * 1024 * 1024
ROLL_S = 60.0
MAX_ROLL_SHARDS = 20_000
"""A roll of more shards would take the leader too long to read."""


class RollLimits(NamedTuple):
    """When a roll is full, and when it is due although it is not."""

    max_rows: int
    max_bytes: int  # of the results as they are stored in the service
    age_s: float

    @classmethod
    def of(cls, output: OutputSpec) -> Self:
        """Return the limits of an output."""
        max_bytes, age_s = output.target_file_bytes or MAX_BYTES, ROLL_S if output.roll_s is None else output.roll_s
        return cls(output.max_rows_per_file or MAX_ROWS, max_bytes, age_s)


class Range(NamedTuple):
    """Settled shards that follow each other, and the results of them."""

    first: int
    until: int
    rows: int = 0
    nbytes: int = 0

    @property
    def shards(self) -> int:
        """How many they are."""
        return self.until - self.first

    def with_next(self, rows: int, nbytes: int) -> Range:
        """Return the range with one more shard."""
        return Range(self.first, self.until + 1, self.rows + rows, self.nbytes + nbytes)

    def has_room(self, rows: int, nbytes: int, limits: RollLimits) -> bool:
        """Return whether one more shard is to be in the same roll."""
        if self.rows == 0 or rows == 0:
            return self.shards < MAX_ROLL_SHARDS
        fits = self.rows + rows <= limits.max_rows and self.nbytes + nbytes <= limits.max_bytes
        return fits and self.shards < MAX_ROLL_SHARDS


class Rolls(NamedTuple):
    """Which results are in files."""

    number: int = 0  # rolls that are written
    shard: int = 0  # the first shard that is in none of them
    until: int = 0  # the first shard behind the roll that is being written; 0: none is
    rows: int = 0  # in all rolls that are written
    at_ms: int = 0  # when the last one was decided, milliseconds since the epoch

    def write(self) -> str:
        """The value as text."""
        return " ".join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `write`; "" is the beginning."""
        return cls(*map(int, text.split())) if text else cls()

    @property
    def is_writing(self) -> bool:
        """Whether a roll is decided and not written yet."""
        return self.until > 0

    def is_due(self, now_ms: int, age_s: float) -> bool:
        """Return whether a roll is due by its age: the last one was decided that long ago."""
        return now_ms - self.at_ms >= age_s * 1000

    def begun(self, until: int, now_ms: int) -> Rolls:
        """Return the value with a roll decided, up to a shard."""
        return self._replace(until=until, at_ms=now_ms)

    def skipped(self, until: int, now_ms: int) -> Rolls:
        """Return the value behind shards that have no results."""
        return self._replace(shard=until, at_ms=now_ms)

    def ended(self, rows: int) -> Rolls:
        """Return the value with the roll that was decided written. rows: those of it."""
        return self._replace(number=self.number + 1, shard=self.until, until=0, rows=self.rows + rows)
