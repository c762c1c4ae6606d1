"""Finds where the records of a text file end, block by block, without looking at a single row in Python.

1. A record ends at a newline. In CSV it does not if the newline is between quotes: `_quote_toggles` finds the
   quotes that open and close a value, and a newline behind an odd number of them is part of a value.
2. A quote opens a value only at the value's beginning, as CSV readers have it. When all quotes of a block are
   where openings and closings can be, which is usual, each is a toggle; otherwise they are examined one by one.
3. Blank records are no rows. Only a record whose first byte is white space is examined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

_NEWLINE = 10
_RETURN = 13
_CACHED_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Records:
    """Consecutive records of a text file. The arrays are equally long."""

    ends: NDArray[np.int64]  # the offset in the text just behind each record, its line end included
    rows: NDArray[np.int64]  # how many of these records, up to and with each, are rows
    lines: NDArray[np.int64]  # how many lines of the file they take up, up to and with each


@dataclass(frozen=True, slots=True)
class Layout:
    """How a text is cut into records."""

    blanks: bytes = b""  # a record of these bytes only is no row; empty: every record is one
    quotes: bool = False  # whether newlines between quotes are part of a value (CSV)
    quote: int = ord('"')  # these are bytes
    delimiter: int = ord(",")
    escape: int | None = None  # the byte after it has no meaning of its own

    def before_a_value(self) -> tuple[int, ...]:
        """Return the bytes behind which a value begins, and before which one ends."""
        return (self.delimiter, _NEWLINE, _RETURN)


class RecordScanner:
    """Scans a text from the beginning of a record on."""

    def __init__(self, layout: Layout, offset: int = 0) -> None:
        self.end = offset  # how far the text was scanned
        self.started = offset  # where the record that has not ended yet begins
        self.is_quoted = False  # whether a quoted value has not ended yet
        self._layout = layout
        self._blanks = layout.blanks
        self._quotes = layout.quotes
        self._before_an_opening = np.isin(np.arange(256), (*layout.before_a_value(), layout.quote))
        self._is_escaped = False  # whether the byte before the block takes the meaning of the block's first
        self._lines = 0  # of the record that has not ended yet
        self._is_blank = True  # whether it is blank so far
        self._previous = _NEWLINE  # the byte before the block; 0 for a quote that closes nothing

    def scan(self, block: pa.Buffer) -> Records:
        """Find the records that end in the next block of the text."""
        data = np.frombuffer(block, np.uint8)
        breaks = places_of(data, _NEWLINE)
        last = self._record_breaks(data, breaks) if self._quotes or self._layout.escape is not None else breaks
        stops = last + 1
        blank = self._blank(data, stops)
        lines = self._lines + (
            np.searchsorted(breaks, last, side="right") if len(last) < len(breaks) else np.arange(1, len(stops) + 1)
        )
        records = Records(self.end + stops, np.cumsum(~blank), lines)
        self._keep_open(data, len(breaks), records)
        return records

    def finish(self) -> Records:
        """Return the record that ends with the text instead of a newline, if there is one."""
        left = 1 if self.end > self.started else 0
        is_row = 0 if self._blanks and self._is_blank else 1
        return Records(*(np.full(left, value, np.int64) for value in (self.end, is_row, self._lines + 1)))

    def _keep_open(self, data: NDArray[np.uint8], breaks: int, records: Records) -> None:
        """Remember what the next block continues."""
        tail = data
        if len(records.ends):
            self.started = int(records.ends[-1])
            tail = data[self.started - self.end :]
            self._is_blank = True
            breaks -= int(records.lines[-1]) - self._lines
            self._lines = 0
        self._lines += breaks
        self._is_blank = self._is_blank and self._is_blank_text(tail)
        self.end += len(data)

    def _blank(self, data: NDArray[np.uint8], stops: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the records are no rows."""
        blank = np.zeros(len(stops), np.bool_)
        if not self._blanks or not len(stops):
            return blank
        starts = np.concatenate(([0], stops[:-1]))
        first = data[starts]
        blank[:] = first == _NEWLINE
        for place in np.flatnonzero((first <= ord(" ")) & ~blank).tolist():
            blank[place] = self._is_blank_text(data[starts[place] : stops[place]])
        blank[0] = self._is_blank and self._is_blank_text(data[: stops[0]])
        return blank

    def _is_blank_text(self, data: NDArray[np.uint8]) -> bool:
        return not data.tobytes().strip(self._blanks) if len(data) and data[0] <= ord(" ") else not len(data)

    def _record_breaks(self, data: NDArray[np.uint8], breaks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the newlines that end a record, of a format with quotes or an escape."""
        escaped = self._escaped(data)
        breaks = np.setdiff1d(breaks, escaped, assume_unique=True)
        if not self._quotes:
            return breaks
        toggles = self._quote_toggles(data, escaped)
        if len(toggles):
            behind = np.searchsorted(toggles, breaks) + int(self.is_quoted)
            ending: NDArray[np.int64] = breaks[behind % 2 == 0]
        else:
            ending = breaks[:0] if self.is_quoted else breaks
        self.is_quoted = (len(toggles) + int(self.is_quoted)) % 2 == 1
        if len(data):
            closing = len(toggles) > 0 and toggles[-1] == len(data) - 1
            self._previous = 0 if data[-1] == self._layout.quote and not closing else int(data[-1])
        return ending

    def _escaped(self, data: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Find the bytes that an escape before them takes the meaning of."""
        if self._layout.escape is None or not len(data):
            return np.empty(0, np.int64)
        is_escape = np.concatenate(([self._is_escaped], data == self._layout.escape, [False]))
        if self._is_escaped and is_escape[1]:
            is_escape[:2] = False, False  # the two belong together
        edges = np.flatnonzero(np.diff(is_escape.astype(np.int8), prepend=0))
        starts, stops = edges[::2], edges[1::2]  # of runs of escapes; each but the first escapes the one after it
        behind = stops[(stops - starts) % 2 == 1] - 1
        self._is_escaped = bool(len(behind)) and int(behind[-1]) == len(data)
        found: NDArray[np.int64] = behind[behind < len(data)]
        return found

    def _quote_toggles(self, data: NDArray[np.uint8], escaped: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the quotes that open or close a quoted value; a doubled quote inside one does both."""
        quotes = places_of(data, self._layout.quote) if _holds(data, self._layout.quote) else np.empty(0, np.int64)
        if len(escaped):
            quotes = np.setdiff1d(quotes, escaped, assume_unique=True)
        opening = quotes[int(self.is_quoted) :: 2]
        before = data[opening - 1]
        if len(opening) and opening[0] == 0:
            before[0] = self._previous
        if self._before_an_opening[before].all():
            return quotes
        return self._examine_quotes(data, quotes)

    def _examine_quotes(self, data: NDArray[np.uint8], quotes: NDArray[np.int64]) -> NDArray[np.int64]:
        toggles = []
        is_quoted = self.is_quoted
        closed = -1 if self._previous == self._layout.quote else -2  # where a quoted value ended last
        for quote in quotes.tolist():
            before = data[quote - 1] if quote else self._previous
            if is_quoted:
                closed = quote
            elif before not in self._layout.before_a_value() and closed != quote - 1:
                continue
            toggles.append(quote)
            is_quoted = not is_quoted
        return np.array(toggles, np.int64)


def places_of(data: NDArray[np.uint8], byte: int) -> NDArray[np.int64]:
    """Return where a byte is, ascending. Blocks that stay in the processor's cache are looked through one by one."""
    found = [
        np.flatnonzero(data[start : start + _CACHED_BYTES] == byte) + start
        for start in range(0, len(data), _CACHED_BYTES)
    ]
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _holds(data: NDArray[np.uint8], byte: int) -> bool:
    """Whether a byte occurs: most files have no quotes, and this takes half the time of `places_of`."""
    wanted = bytes([byte])
    return any(wanted in data[start : start + _CACHED_BYTES].tobytes() for start in range(0, len(data), _CACHED_BYTES))


def has_text_behind_a_quote(text: pa.Buffer, layout: Layout) -> bool:
    """Whether a value of these complete records continues behind the quote that closes it."""
    data = np.frombuffer(text, np.uint8)
    scanner = RecordScanner(layout)
    escaped = scanner._escaped(data)  # noqa: SLF001  # of this module
    toggles = scanner._quote_toggles(data, escaped)  # noqa: SLF001  # of this module
    behind = toggles[1::2] + 1
    after = data[behind[behind < len(data)]]
    return not bool(scanner._before_an_opening[after].all())  # noqa: SLF001  # of this module
