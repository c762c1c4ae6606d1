"""A source whose rows are one split, for a stage that takes all rows at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from batchmill.errors import InvalidSource
from batchmill.sources.base import End, InputSplit, NextSplit, NotYet, Splitter

if TYPE_CHECKING:
    from batchmill.jobs.shard import Slice

MAX_SLICES = 10_000
"""Of the one split: the ledger keeps about 30 bytes for each."""

ROWS_OF_A_PART = 2**31 - 1


class UndividedSplitter(Splitter):
    """Joins all splits of another splitter, which it closes with itself."""

    def __init__(self, parts: Splitter) -> None:
        self._parts = parts
        self._slices: list[Slice] = []
        self._rows = self._nbytes = 0

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:  # noqa: ARG002  # the stage takes all at once
        """See `Splitter.next_split`. max_bytes: of a part. Raises `InvalidSource` for rows in too many places, too."""
        cursor = ""
        while True:
            match self._parts.next_split(ROWS_OF_A_PART, max_bytes):
                case InputSplit() as split:
                    self._add(split)
                    cursor = split.cursor
                case NotYet():
                    return NotYet()
                case End():
                    return self._all(cursor)
                case never:
                    assert_never(never)

    def close(self) -> None:
        """See `Splitter.close`."""
        self._parts.close()

    def _all(self, cursor: str) -> NextSplit:
        if not self._slices:
            return End()
        split = InputSplit(tuple(self._slices), self._rows, self._nbytes, cursor)
        self._slices = []
        return split

    def _add(self, split: InputSplit) -> None:
        self._slices += split.slices
        self._rows += split.rows
        self._nbytes += split.bytes
        if len(self._slices) > MAX_SLICES:
            raise InvalidSource(
                f"the rows are in more than {MAX_SLICES:,} files or pieces; a stage that takes all rows at once cannot "
                "read them by itself.",
                hint="Put a stage before it, if only 'echo'.",
            )
