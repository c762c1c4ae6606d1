"""Rows that are dead before the operator sees them: they cannot be read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchmill.shard import Shard
    from batchmill.sources.base import RowsRead


@dataclass(frozen=True, slots=True)
class UnusableRow:
    """A row to give up on at once."""

    index: int  # in the stage's input
    error_type: str
    message: str
    row: dict[str, Any]  # as JSON values: where it is, and its text if it is a line


def unusable_rows(shard: Shard, found: RowsRead) -> list[UnusableRow]:
    """Find the rows of a shard that cannot be used, in input order. found: the rows of its slices."""
    first = shard.first_row - shard.skip
    behind = shard.first_row + shard.rows
    return [
        UnusableRow(first + one.place, one.error_type, one.message, {"file": one.file, "line": one.line})
        for one in found.bad
        if shard.first_row <= first + one.place < behind
    ]
