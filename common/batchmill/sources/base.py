"""What a source is: rows that lie somewhere, cut into slices by the planner and read by the workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

    import pyarrow as pa

    from batchmill.shard import Slice


@dataclass(frozen=True, slots=True)
class RowCount:
    """How many rows a source has; `exact` is False while that is reckoned from its bytes."""

    rows: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """What one cut gives: consecutive rows of a source, and where the next cut goes on."""

    slices: tuple[Slice, ...]
    rows: int
    bytes: int  # about what the rows take in memory or on disk
    cursor: str  # opaque to all but the source: give it to `cutter` to go on behind this piece


class Cutter(ABC):
    """A walk along a source, from a cursor on. Holds open files: use as a context manager."""

    @abstractmethod
    def cut(self, max_rows: int, max_bytes: int) -> Piece | None:
        """The next rows: at most `max_rows`, and about `max_bytes` (at least one row); None at the end.

        Raises `InvalidSource` for a file that vanished, changed since it was described, or has a broken line.
        """

    def close(self) -> None:  # noqa: B027  # not all hold something open
        """Close what is open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Source(ABC):
    """Rows that lie somewhere. Reading is lazy: memory grows with a slice, never with the source."""

    schema: pa.Schema

    @abstractmethod
    def count(self, cursor: str) -> RowCount:
        """How many rows the whole source has, as far as is known when the planner stands at `cursor`."""

    @abstractmethod
    def cutter(self, cursor: str = "") -> Cutter:
        """A walk that goes on at a cursor; the empty one is the beginning."""

    @abstractmethod
    def read(self, slices: tuple[Slice, ...]) -> pa.Table:
        """The rows of these slices, in order, with this source's schema.

        Raises `InvalidSource` naming file and line for rows that do not parse.
        """
