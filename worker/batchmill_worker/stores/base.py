"""What every store can do, and the values that go in and come out.

1. `write`, by several workers at once: the rows of one attempt arrive where nobody sees them, under the attempt's name.
2. `publish`, by one worker: the rows of the attempts that count become visible, what they replace is deleted, and the
   index is built. It may be called again after it was cut short, and does nothing then that was done.
3. `search` finds the nearest rows among those that are visible.

A worker that was frozen and continues later writes rows that nobody publishes, or is refused: a store keeps the
generation of what was published last, and refuses an older one. Ids of jobs sort by time, so they are generations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from batchmill.errors import InvalidOutput, InvalidParams, InvalidRows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from batchmill.jobs.sink import SinkSpec
    from batchmill.operators.contract import RowError

DISTANCE = "_distance"
"""The column that found rows have besides: smaller is nearer, whatever the metric."""

Where = dict[str, Any]
"""A filter: for each column a value, or an object of comparisons such as `{"gte": 2020, "lt": 2024}`; all must hold."""

COMPARISONS = {"eq": "=", "ne": "<>", "lt": "<", "lte": "<=", "gt": ">", "gte": ">=", "in": "IN"}


@dataclass(frozen=True, slots=True)
class Receipt:
    """What an attempt has written. about: what the store needs to publish it, as JSON values."""

    part: str  # the attempt's name
    rows: int
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Build:
    """One job's writing into a store. schema: of the rows that it stores, which all of its attempts agree on."""

    job: str
    sink: SinkSpec
    schema: pa.Schema

    @property
    def dimension(self) -> int:
        """The length of the vectors."""
        return int(self.schema.field(self.sink.vector).type.list_size)


@dataclass(frozen=True, slots=True)
class Published:
    """What was made visible."""

    rows: int  # in the index now
    deleted: int = 0  # rows that were there before
    index: str = "none"  # the kind of index; none: rows are compared one by one


class Store(Protocol):
    """One table of vectors. A sink has one for each call, so it keeps no connection; calls may run side by side."""

    def schema(self) -> pa.Schema | None:
        """Return the schema of the rows that are visible; None if there is no table yet."""
        ...

    def refused(self, rows: pa.Table) -> dict[int, RowError]:
        """Return the errors of rows with values that the store cannot hold, by their place. rows: without vectors."""
        ...

    def write(self, build: Build, part: str, rows: pa.Table) -> Receipt:
        """Store the rows of an attempt, which are of `build.schema`. Raises `StorageUnavailable` or `StaleToken`."""
        ...

    def publish(self, build: Build, receipts: Sequence[Receipt]) -> Published:
        """Make the rows of these attempts visible. Raises as `write`, and `InvalidRows` for two rows of one id."""
        ...

    def search(
        self, sink: SinkSpec, vector: npt.NDArray[np.float32], k: int, where: Where, columns: Sequence[str] | None
    ) -> pa.Table:
        """Return the `k` nearest rows, the nearest first, without their vectors, with `DISTANCE`.

        columns: those to return; None: all. Raises `InvalidParams` for a column that is not there.
        """
        ...


def foreign(table: str, why: str) -> InvalidOutput:
    """Return the error for a table that is not the sink's own. why: what is so at its place."""
    return InvalidOutput(
        f"{table} is left as it is: {why}.", hint="Choose another place, or move what is there out of the way."
    )


def beside(table: str, job: str) -> str:
    """Return the name of what is beside a table, where a job collects its rows."""
    return f"{table}__{job.rpartition('-')[2]}"


def twins(build: Build, root: str | None) -> InvalidRows:
    """Return the error for a document that is in the source twice. root: None: it is not known which one."""
    value = "one value" if root is None else f"the value {root!r}"
    return InvalidRows(
        f"two rows have {value} in the column {build.sink.id!r}, which must have another one for each document.",
        hint="Name another column as sink.id, or leave one of the rows out.",
        column=build.sink.id,
    )


def cannot_search(why: str) -> InvalidParams:
    """Return the error for a search that a store refuses. why: what it says."""
    return InvalidParams(
        f"the store refuses the search: {why}.", hint="Values in `where` must be of the types of their columns."
    )
