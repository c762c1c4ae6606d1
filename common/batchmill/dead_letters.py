"""Dead letters: rows given up on, as they are stored next to a job's results and shown to users.

Those of one attempt lie in one Arrow file: the input rows as they were read, so that they can be run again exactly,
and beside each its letter as JSON.
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

from batchmill.job import Frozen
from batchmill.shard import ShardId, ShardRef, format_shard_id


class DeadLetter(Frozen):
    """A row given up on. Times are seconds since the epoch."""

    index: int  # 0-based, in the job's input
    row: dict[str, Any]  # the input row, as JSON values: see `json_value`
    operator: str
    error_type: str
    message: str
    traceback: str = ""
    attempts: int  # how often it was tried
    worker: str  # the one that tried it last
    first_failed_at: float
    last_failed_at: float
    replay: str = ""  # the job that ran it again last, and gave up on it too


WORKER_LOST = "WorkerLost"
"""The error type of a row that ended its worker process again and again."""

BAD_LINE = "BadLine"
"""The error type of a row that cannot be read from its file."""

MISSING_VALUE = "MissingValue"
"""The error type of a row without a value in a column that its operator requires."""

LETTER = "__batchmill_letter__"
"""The column of letters."""


_PURGED = b"purged"


@dataclass(frozen=True, slots=True)
class DeadRows:
    """The dead rows of one attempt, by index."""

    letters: tuple[DeadLetter, ...]
    rows: pa.Table  # the input rows, one a letter
    purged: tuple[int, ...] = ()  # the indices of those whose letters and rows were deleted

    @classmethod
    def from_table(cls, table: pa.Table) -> Self:
        """The inverse of `table`."""
        letters = tuple(map(DeadLetter.model_validate_json, table[LETTER].to_pylist()))
        purged = tuple(json.loads((table.schema.metadata or {}).get(_PURGED, b"[]")))
        return cls(letters, table.drop_columns([LETTER]).replace_schema_metadata(None), purged)

    def table(self) -> pa.Table:
        """As it is stored."""
        letters = pa.array([letter.model_dump_json() for letter in self.letters], pa.string())
        table = self.rows.append_column(LETTER, letters)
        return table.replace_schema_metadata({_PURGED: json.dumps(self.purged)}) if self.purged else table

    @property
    def indices(self) -> set[int]:
        """Of all of them."""
        return {letter.index for letter in self.letters} | set(self.purged)

    def select(self, indices: Collection[int]) -> Self:
        """Those with these indices in the job's input, of which there are letters."""
        places = [place for place, letter in enumerate(self.letters) if letter.index in indices]
        return type(self)(tuple(self.letters[place] for place in places), self.rows.take(pa.array(places, pa.int64())))

    def purge(self, indices: Collection[int]) -> Self:
        """These without the letters and rows of some."""
        left = self.select({letter.index for letter in self.letters}.difference(indices))
        return replace(left, purged=tuple(sorted({*self.purged, *indices})))


def dead_letters_name(ref: ShardRef) -> str:
    """The blob that holds the dead letters of an attempt."""
    return f"jobs/{ref.job_id}/dead/{part_of(ref.shard_id, ref.token)}.arrow"


def part_of(shard_id: ShardId, token: int) -> str:
    """The name that what an attempt stores begins with."""
    return f"part-{format_shard_id(shard_id)}-a{token}"


def count_by_type(letters: Iterable[DeadLetter]) -> tuple[tuple[str, int], ...]:
    """How many rows died of which error."""
    return tuple(sorted(Counter(letter.error_type for letter in letters).items()))


def json_value(value: Any) -> Any:
    """A value of a row as JSON has it: bytes as base64, times as ISO 8601, non-finite floats as null."""
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
