"""What a source is: rows that are stored somewhere, split by the planner and read by the workers.

A splitter answers each request with one of three values, `NextSplit`: an `InputSplit`, `NotYet` while the input is
still being written, or `End`. Callers match all three.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol, Self, assert_never

import pyarrow as pa

from batchmill.jobs.dead_letters import BAD_LINE, BAD_VALUE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from batchmill.columns import UnfitValue
    from batchmill.jobs.shard import Slice

MAX_SLICES = 256  # of a split, so that the ledger's entry stays small


@dataclass(frozen=True, slots=True)
class RowCount:
    """How many rows a source has; `exact` is False while that is an estimate from its bytes."""

    rows: int
    exact: bool


@dataclass(frozen=True, slots=True)
class InputSplit:
    """Consecutive rows of a source, and where the split after it begins."""

    slices: tuple[Slice, ...]
    rows: int
    bytes: int  # about what the rows take in memory or on disk
    cursor: str  # opaque to all but the source: `splitter(cursor)` continues behind this split
    others: tuple[
        tuple[Slice, ...], ...
    ] = ()  # the slices of further shards with as many rows, planned together with it


@dataclass(frozen=True, slots=True)
class NotYet:
    """No split now, but the end is not reached: the input is still being written, or a short remainder is held back.

    cursor: where the splitter is, if it has passed over input without rows; None: behind the last split.
    """

    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class End:
    """No more rows will come."""


NextSplit = InputSplit | NotYet | End


class Splitter(ABC):
    """Gives a source split by split, from a cursor on. Holds open files: use as a context manager."""

    is_awaited: bool = (
        True  # whether a slot is free for the next split; if not, a source without an end may hold it back
    )

    @property
    def holds_for_s(self) -> float | None:
        """For how many seconds it holds back rows that are there, if no slot gets free; None: it holds none."""
        return None

    @abstractmethod
    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:
        """Return the next rows: at most `max_rows`, and about `max_bytes`, but at least one row.

        `NotYet` leaves the splitter where it is: a later call looks at the input again and returns what follows the
        last split. After `End` every call returns `End`.
        Raises `InvalidSource` for a file that vanished, changed since it was described, or has a broken line.
        """

    def available(self, max_rows: int, max_bytes: int) -> Iterator[InputSplit]:
        """Yield the splits that there are now: up to the end, or to where the input is still being written.

        Raises as `next_split` does.
        """
        while True:
            match self.next_split(max_rows, max_bytes):
                case InputSplit() as split:
                    yield split
                case NotYet() | End():
                    return
                case never:
                    assert_never(never)

    def close(self) -> None:  # noqa: B027  # not all hold something open
        """Close the files that are open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read."""

    place: int  # among the rows read, 0-based
    file: str  # empty: it is a row of the stage before
    line: int  # 1-based; 0: the file, or a part of it, cannot be read at all
    text: str  # the line, its end cut
    reason: str  # a clause
    error_type: str = BAD_LINE  # of its dead letter
    values: Mapping[str, Any] = field(default_factory=dict)  # those that its row lacks, by column

    @property
    def message(self) -> str:
        """Return where it is and what is wrong with it."""
        if not self.file:
            return f"{self.reason}."
        where = f"{self.file}, line {self.line}" if self.line else self.file
        return f"{where}: {self.reason}."


@dataclass(frozen=True, slots=True)
class RowsRead:
    """Rows in order. A bad one lacks values."""

    table: pa.Table
    bad: tuple[BadRow, ...] = ()  # by place
    unfit: tuple[UnfitValue, ...] = ()  # values that rows lack, by place; the stage finds which are at fault


class RowReader(Protocol):
    """Reads rows that the planner has found."""

    def read(self, slices: tuple[Slice, ...]) -> pa.Table:
        """See `Source.read`."""

    def read_with_faults(self, slices: tuple[Slice, ...]) -> RowsRead:
        """See `Source.read_with_faults`."""

    def origins(self, slices: Sequence[Slice], places: Sequence[int]) -> list[str]:
        """See `Source.origins`."""


class Source(ABC):
    """Rows that are stored somewhere. Reading is lazy: memory grows with a slice, never with the source."""

    schema: pa.Schema
    stays_open: bool = True  # whether a splitter may be kept for later; else it knows what there was when it was opened

    @abstractmethod
    def count(self, cursor: str) -> RowCount:
        """Return how many rows the source has in total, as far as is known with all rows before `cursor` read."""

    @abstractmethod
    def splitter(self, cursor: str = "") -> Splitter:
        """Open a splitter that continues at a cursor; the empty one is the beginning."""

    @abstractmethod
    def read(self, slices: tuple[Slice, ...]) -> pa.Table:
        """Read the rows of these slices, in order, with this source's schema.

        Raises `InvalidSource` naming file and line for rows that do not parse.
        """

    def read_with_faults(self, slices: tuple[Slice, ...]) -> RowsRead:
        """Read the rows of these slices; where the source's options allow bad rows, they are listed instead of raised.

        Raises as `read` does for everything else.
        """
        return RowsRead(self.read(slices))

    def origins(self, slices: Sequence[Slice], places: Sequence[int]) -> list[str]:  # noqa: ARG002  # of files only
        """Return in which file and line rows of these slices are; empty texts for rows that are in no file of a user.

        places: of the rows among those of the slices, ascending. Raises as `read` does.
        """
        return [""] * len(places)


@dataclass(frozen=True, slots=True)
class Survey:
    """The state of a source without an end."""

    lag: int | None  # rows that are there and not planned; None: not known
    partitions: int


class EndlessSource(Source):
    """A source without an end. It never answers `End`; how many rows it will have is not known.

    Its cursors are `StreamOffsets`. Every method that asks the source raises `StreamUnavailable` while it is away.
    """

    def count(self, cursor: str) -> RowCount:  # noqa: ARG002  # it is never known
        """Return a count that says nothing; the planner does not ask."""
        return RowCount(0, exact=False)

    @abstractmethod
    def first_cursor(self) -> str:
        """Return where a job that begins now begins: what `StreamSource.start` says, as `StreamOffsets`."""

    @abstractmethod
    def wait(self, cursor: str, timeout_s: float) -> bool:
        """Return once there may be rows behind the cursor, or after `timeout_s`; say whether there may be."""

    @abstractmethod
    def survey(self, cursor: str) -> Survey:
        """Return how much is behind the cursor."""

    @abstractmethod
    def settle(self, settled: Sequence[Mapping[str, str]]) -> None:
        """Report up to which offsets each of the jobs that read it has settled its rows, by partition."""


def by_slice(counts: Sequence[int], places: Sequence[int]) -> list[list[int]]:
    """Cut places among the rows of several slices into those in each. counts: the rows of each slice."""
    found: list[list[int]] = []
    first = 0
    for count in counts:
        found.append([place - first for place in places if first <= place < first + count])
        first += count
    return found


def null_rows(schema: pa.Schema, rows: int) -> pa.Table:
    """Return rows without values."""
    return pa.table([pa.nulls(rows, field.type) for field in schema], schema=schema)


def join_rows(parts: Sequence[RowsRead], schema: pa.Schema) -> RowsRead:
    """Join rows that were read in parts."""
    tables = [part.table for part in parts]
    return RowsRead(pa.concat_tables(tables) if tables else schema.empty_table(), bad_rows_of(parts))


def bad_values(unfit: Sequence[UnfitValue]) -> tuple[BadRow, ...]:
    """Return the rows with values that do not fit, which are in order, as bad rows."""
    bad: list[BadRow] = []
    for place, found in groupby(unfit, key=lambda one: one.place):
        of_row = list(found)
        values = {one.column: one.value for one in of_row}
        bad.append(BadRow(place, "", 0, "", of_row[0].reason, BAD_VALUE, values))
    return tuple(bad)


def bad_rows_of(parts: Sequence[RowsRead]) -> tuple[BadRow, ...]:
    """Return the bad rows of parts, with their places among the rows of all parts."""
    bad: list[BadRow] = []
    before = 0
    for part in parts:
        bad += (replace(one, place=one.place + before) for one in part.bad)
        before += part.table.num_rows
    return tuple(bad)
