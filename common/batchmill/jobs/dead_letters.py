"""Dead letters: the records of failed rows, as they are stored and shown to users.

The dead letters of one attempt are stored in one Arrow file: the input rows as they were read, so that a replay runs
exactly these, and for each row its dead letter as JSON.
"""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import pyarrow as pa

from batchmill.jobs.frozen import Frozen
from batchmill.jobs.shard import ShardRef, part_stem


class DeadLetter(Frozen):
    """A failed row. Times are seconds since the epoch."""

    stage: int
    """The stage of the job in which the row failed, from 0."""
    index: int
    """Its index in the stage's input, from 0."""
    path: tuple[int, ...] = ()
    """In a job of several stages: the index of its row in the job's source, then its number among the results of one
    row at each expanding stage before."""
    row: dict[str, Any]
    """The input row as JSON values: bytes as base64, times as ISO 8601, non-finite floats as null."""
    operator: str
    """The operator that failed."""
    error_type: str
    """Name of the exception's type."""
    message: str
    """The exception's message."""
    traceback: str = ""
    """The exception's traceback."""
    attempts: int
    """How often the row was tried."""
    worker: str
    """The worker of the last attempt."""
    first_failed_at: float
    """When the first attempt failed."""
    last_failed_at: float
    """When the last attempt failed."""
    replay: str = ""
    """The last job that ran it again, without success either."""


WORKER_LOST = "WorkerLost"
"""The error type of a row that ended its worker process repeatedly."""

BAD_LINE = "BadLine"
"""The error type of a row that cannot be read from its file."""

TOO_LARGE = "too_large"
TOO_MANY_RESULTS = "TooManyResults"
"""The error type of a row that is a file, and larger than its source allows."""

MISSING_VALUE = "MissingValue"
"""The error type of a row without a value in a column that its operator requires."""

BAD_VALUE = "bad_value"
"""The error type of a row with a value of another type than its column has in the rows before."""

INCOMPLETE = "IncompleteSourceRow"
"""The error type of a source row that is not gathered, because rows that were made of it failed in an earlier stage."""

LETTER = "__batchmill_letter__"
"""The column of dead letters in a stored table."""

_PURGED = b"purged"
_FROM_SHARD = b"count_from_shard"


@dataclass(frozen=True, slots=True)
class DeadRows:
    """The failed rows of one attempt, by index. `letters` and `rows` have equal lengths."""

    letters: tuple[DeadLetter, ...]
    rows: pa.Table  # the input rows, one per dead letter
    purged: tuple[int, ...] = ()  # the indices of deleted dead letters
    count_from_shard: bool = False  # whether indices count from the first row of the shard, which was not known yet

    @classmethod
    def from_table(cls, table: pa.Table) -> Self:
        """Read a table that `table` made."""
        letters = tuple(map(DeadLetter.model_validate_json, table[LETTER].to_pylist()))
        about = table.schema.metadata or {}
        purged = tuple(json.loads(about.get(_PURGED, b"[]")))
        return cls(letters, table.drop_columns([LETTER]).replace_schema_metadata(None), purged, _FROM_SHARD in about)

    def table(self) -> pa.Table:
        """Return the table to store."""
        letters = pa.array([letter.model_dump_json() for letter in self.letters], pa.string())
        table = self.rows.append_column(LETTER, letters)
        about = {_PURGED: json.dumps(self.purged).encode()} if self.purged else {}
        if self.count_from_shard:
            about[_FROM_SHARD] = b"1"
        return table.replace_schema_metadata(about) if about else table

    def counted_from_input(self, first_row: int) -> Self:
        """Return the same with indices in the stage's input. first_row: that of the shard."""
        if not self.count_from_shard:
            return self
        letters = tuple(one.model_copy(update={"index": first_row + one.index}) for one in self.letters)
        return replace(self, letters=letters, count_from_shard=False)

    @property
    def indices(self) -> set[int]:
        """The indices of all failed rows, purged ones included."""
        return {letter.index for letter in self.letters} | set(self.purged)

    def select(self, indices: Collection[int]) -> Self:
        """Return the dead letters with these indices in the job's input; unknown indices are ignored."""
        kept = [at for at, letter in enumerate(self.letters) if letter.index in indices]
        return type(self)(tuple(self.letters[at] for at in kept), self.rows.take(pa.array(kept, pa.int64())))

    def purge(self, indices: Collection[int]) -> Self:
        """Return a copy without the dead letters of these indices, which count as purged."""
        left = self.select({letter.index for letter in self.letters}.difference(indices))
        return replace(left, purged=tuple(sorted({*self.purged, *indices})))


def dead_letters_name(ref: ShardRef) -> str:
    """Return the name of the blob with the dead letters of an attempt."""
    return f"jobs/{ref.job_id}/dead/{ref.stage}/{part_stem(ref.shard_id, ref.token)}.arrow"


def count_by_type(letters: Iterable[DeadLetter]) -> tuple[tuple[str, int], ...]:
    """Count failed rows by error type."""
    return tuple(sorted(Counter(letter.error_type for letter in letters).items()))


def unfit_json_value(value: Any) -> Any:
    """Convert a value that the type of its column does not hold; never null, which the row itself has in its place."""
    found = json_value(value)
    return str(value) if found is None else found


def json_value(value: Any) -> Any:
    """Convert a value of a row to JSON: bytes as base64, times as ISO 8601, non-finite floats as null."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            return base64.b64encode(value).decode("ascii")
        case Mapping():
            return {str(name): json_value(item) for name, item in value.items()}
        case list() | tuple():
            return [json_value(item) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
