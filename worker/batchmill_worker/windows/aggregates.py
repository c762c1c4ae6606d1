"""What windows compute of their rows. A sum is kept as JSON values, so that it can be stored with a window.

Adding rows one by one, and merging the sums of two sessions, give the same in any order, except for the last digits of
sums of floating-point numbers.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

Sum = list[Any]
"""What an aggregate keeps of the rows of one window."""


MAX_INTEGER = 2**63 - 1
VALUE_BYTES, ENTRY_BYTES = 8, 24  # of a number; of the time and number of a row that is kept


class BadValue(ValueError):
    """A value that an aggregate cannot take: the row fails."""


@dataclass(frozen=True, slots=True)
class Aggregate(ABC):
    """One column of what a window makes. column: of the rows; empty: none is read."""

    column: str
    keeps_rows: ClassVar[bool] = False  # whether its sum grows with the rows

    def check(self, row: Mapping[str, Any]) -> None:  # noqa: B027  # most take every value
        """Raise `BadValue` for a row that cannot be added."""

    def most_bytes(self, row: Mapping[str, Any]) -> int:  # noqa: ARG002  # most keep no values
        """Return how many bytes more are kept with a row, about and at most."""
        return 0

    @abstractmethod
    def start(self) -> Sum:
        """Return the sum of no rows."""

    @abstractmethod
    def add(self, total: Sum, row: Mapping[str, Any], at: int, number: int) -> int:
        """Add a row; return how many bytes more are kept, about.

        at: its event time; number: in the order of arrival, among all rows of the stage.
        """

    @abstractmethod
    def merge(self, total: Sum, other: Sum) -> int:
        """Add the rows of another window; return how many bytes fewer are kept now than by both before, about."""

    @abstractmethod
    def result(self, total: Sum) -> Any:
        """Return the value of the column."""


class Count(Aggregate):
    """The number of rows, or of values that are not null."""

    def start(self) -> Sum:
        """See `Aggregate`."""
        return [0]

    def add(self, total: Sum, row: Mapping[str, Any], at: int, number: int) -> int:  # noqa: ARG002  # see `Aggregate`
        """See `Aggregate`."""
        total[0] += not self.column or row.get(self.column) is not None
        return 0

    def merge(self, total: Sum, other: Sum) -> int:
        """See `Aggregate`."""
        total[0] += other[0]
        return 0

    def result(self, total: Sum) -> int:
        """See `Aggregate`."""
        return int(total[0])


class Total(Aggregate):
    """The sum of the values that are not null; null without one."""

    def check(self, row: Mapping[str, Any]) -> None:
        """See `Aggregate`."""
        value = row.get(self.column)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise BadValue(f"column {self.column!r}: expected a number, got {type(value).__name__}")

    def start(self) -> Sum:
        """See `Aggregate`."""
        return [0, 0]

    def add(self, total: Sum, row: Mapping[str, Any], at: int, number: int) -> int:  # noqa: ARG002  # see `Aggregate`
        """See `Aggregate`."""
        value = row.get(self.column)
        if value is not None:
            total[0] += 1
            total[1] += value
        return 0

    def merge(self, total: Sum, other: Sum) -> int:
        """See `Aggregate`."""
        total[0] += other[0]
        total[1] += other[1]
        return 0

    def result(self, total: Sum) -> Any:
        """See `Aggregate`. A sum of integers that no column can have is a floating-point number."""
        if not total[0]:
            return None
        return float(total[1]) if abs(total[1]) > MAX_INTEGER else total[1]


class Mean(Total):
    """The mean of the values that are not null; null without one."""

    def result(self, total: Sum) -> float | None:
        """See `Aggregate`."""
        return total[1] / total[0] if total[0] else None


class Least(Aggregate):
    """The smallest value that is not null; null without one."""

    def check(self, row: Mapping[str, Any]) -> None:
        """See `Aggregate`. Values of different kinds have no order."""
        value = row.get(self.column)
        if value is not None and not isinstance(value, int | float | str):
            raise BadValue(f"column {self.column!r}: expected a number or a text, got {type(value).__name__}")

    def most_bytes(self, row: Mapping[str, Any]) -> int:
        """See `Aggregate`."""
        return size_of(row.get(self.column))

    def start(self) -> Sum:
        """See `Aggregate`."""
        return []

    def add(self, total: Sum, row: Mapping[str, Any], at: int, number: int) -> int:  # noqa: ARG002  # see `Aggregate`
        """See `Aggregate`."""
        value = row.get(self.column)
        if value is None or value != value:  # NaN has no order, and counts as null
            return 0
        return size_of(value) - self.merge(total, [value])

    def merge(self, total: Sum, other: Sum) -> int:
        """See `Aggregate`."""
        both = total + other
        total[:] = self.kept_of(both)
        return sum(map(size_of, both)) - sum(map(size_of, total))

    def kept_of(self, values: Sum) -> Sum:
        """Return the values to keep."""
        return [min(values, key=_order)] if values else []

    def result(self, total: Sum) -> Any:
        """See `Aggregate`."""
        return total[0] if total else None


class Greatest(Least):
    """The greatest value that is not null; null without one."""

    def kept_of(self, values: Sum) -> Sum:
        """See `Least`."""
        return [max(values, key=_order)] if values else []


class Collect(Aggregate):
    """All values, also null ones, by event time, those of one time in the order of arrival."""

    keeps_rows = True

    def start(self) -> Sum:
        """See `Aggregate`."""
        return []

    def most_bytes(self, row: Mapping[str, Any]) -> int:
        """See `Aggregate`."""
        return ENTRY_BYTES + size_of(row.get(self.column))

    def add(self, total: Sum, row: Mapping[str, Any], at: int, number: int) -> int:
        """See `Aggregate`."""
        total.append([at, number, row.get(self.column)])
        return self.most_bytes(row)

    def merge(self, total: Sum, other: Sum) -> int:
        """See `Aggregate`."""
        total += other
        return 0

    def result(self, total: Sum) -> list[Any]:
        """See `Aggregate`."""
        return [value for _, _, value in sorted(total, key=lambda one: (one[0], one[1]))]


@dataclass(frozen=True, slots=True)
class Top(Least):
    """The `most` greatest values that are not null, the greatest first."""

    most: int = 1

    def kept_of(self, values: Sum) -> Sum:
        """See `Least`."""
        return heapq.nlargest(self.most, values, key=_order)

    def result(self, total: Sum) -> list[Any]:
        """See `Aggregate`."""
        return list(total)


def size_of(value: Any) -> int:
    """Return about how many bytes it takes to keep a value."""
    if isinstance(value, str):
        return VALUE_BYTES + (len(value) if value.isascii() else len(value.encode(errors="surrogatepass")))
    if isinstance(value, bytes):
        return VALUE_BYTES + len(value)
    if isinstance(value, Mapping):
        return VALUE_BYTES + sum(len(name) + size_of(inner) for name, inner in value.items())
    if isinstance(value, list | tuple):
        return VALUE_BYTES + sum(map(size_of, value))
    return VALUE_BYTES


def _order(value: Any) -> tuple[bool, Any]:
    """Order numbers before texts, so that a column with both has an order."""
    return isinstance(value, str), value


KINDS: dict[str, type[Aggregate]] = {
    "count": Count,
    "sum": Total,
    "mean": Mean,
    "min": Least,
    "max": Greatest,
    "collect": Collect,
    "top": Top,
}
"""The aggregates by the names that users write."""
