"""What the source of a stream is: partitions of messages in order, each behind an offset.

A new kind of stream is a `MessageReader` and a class in `batchmill.jobs.streams.source`; `opening` joins the two. The
rest is the same for all: `StreamInput` cuts and reads, the planner keeps the offsets, the stream keeper settles them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from batchmill.errors import InvalidSource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.sources.base import RowsRead

LOST_MESSAGE = "LostMessage"
"""The error type of a row that its source had deleted before a worker could read it."""

BAD_FILE = "BadFile"
"""The error type of a file of a watched folder that cannot be read at all."""

BAD_MESSAGE = "BadMessage"
"""The error type of a message that is no row."""


class Fetched(NamedTuple):
    """Rows of a partition that follow an offset."""

    last: str  # the offset of the last of them
    rows: int  # at least 1, unless rows were lost
    nbytes: int
    position: int  # rows of the partition up to there, as the source counts them
    time_ms: int | None  # their highest event time; None: none has any
    lost: int = 0  # rows before them that the source has deleted unread


class Head(NamedTuple):
    """An offset and its position: where a job begins."""

    offset: str
    position: int


class StreamReader(ABC):
    """Reads the partitions of one stream. Thread-safe. Raises `StreamUnavailable` while the source is away."""

    @abstractmethod
    def partitions(self) -> Sequence[str]:
        """Return the names of the partitions that there are now; at least one."""

    @abstractmethod
    def head(self, partition: str, *, at_end: bool) -> Head:
        """Return the offset before the first row that is there, or that of the last one."""

    @abstractmethod
    def fetch(self, partition: str, after: Head, max_rows: int, max_bytes: int) -> Fetched | None:
        """Look at the next rows behind an offset, without waiting; at least one, whatever its size. None: none."""

    @abstractmethod
    def read(self, partition: str, after: str, last: str, rows: int) -> RowsRead:
        """Read the rows of a range again: `rows` of them. One that is gone is a bad row, of the type `LOST_MESSAGE`."""

    @abstractmethod
    def lag(self, partition: str, after: Head) -> int | None:
        """Return how many rows are behind an offset; None if the source does not say."""

    @abstractmethod
    def wait(self, offsets: Mapping[str, str], timeout_s: float) -> bool:
        """Wait until some partition may have rows behind its offset; say whether one may."""

    def settle(self, settled: Sequence[Mapping[str, str]]) -> None:  # noqa: B027  # not every source uses it
        """Report to the source up to which offsets each of the jobs that read it has settled its rows, by partition.

        A partition that a job has not begun is not there.
        """


@dataclass(frozen=True, slots=True)
class Message:
    """One row of a stream as its source has it."""

    offset: str
    row: bytes | Mapping[str, str]  # a JSON object, or columns of text
    at_ms: int  # when it arrived, milliseconds since the epoch

    @property
    def nbytes(self) -> int:
        """About how many bytes it has."""
        if isinstance(self.row, bytes):
            return len(self.row)
        return sum(len(name) + len(value) for name, value in self.row.items())


def begun_anew(title: str) -> InvalidSource:
    """The error for a stream that ends before what was read of it."""
    return InvalidSource(
        f"{title} ends before the last row that was read of it: it was deleted and created again.",
        hint="Submit a new job over it.",
        field="source",
    )
