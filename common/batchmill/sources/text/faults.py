"""Find the line at fault when a block of records does not parse: parsers report only that there is one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from batchmill.error_text import first_line
from batchmill.errors import InvalidSource
from batchmill.sources.formats.line_format import RecordProblem
from batchmill.sources.formats.records import RecordScanner

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.sources.formats.line_format import LineFormat
    from batchmill.sources.formats.records import Layout

_HINT = 'Fix or delete the line, or give the source `on_bad_line` "dead": then such lines become dead letters.'
_OWN_ROW = re.compile(r" in row \d+|Row #\d+: ")


@dataclass(frozen=True, slots=True)
class RecordBlock:
    """Complete records of a file that were read at once."""

    uri: str
    line: int  # 1-based, of the first byte
    rows: int
    data: pa.Buffer


class RecordPlaces:
    """Where the rows of a block are: its records without the blank ones."""

    def __init__(self, block: RecordBlock, layout: Layout) -> None:
        scanner = RecordScanner(layout)
        parts = [scanner.scan(block.data), scanner.finish()]
        self._block = block
        self._ends = np.concatenate([part.ends for part in parts])
        self._lines = np.concatenate([parts[0].lines, parts[1].lines + _last(parts[0].lines)])
        rows = np.concatenate([parts[0].rows, parts[1].rows + _last(parts[0].rows)])
        self._records = np.searchsorted(rows, np.arange(1, _last(rows) + 1))

    def __len__(self) -> int:
        return len(self._records)

    def start(self, row: int) -> int:
        """Return the offset in the block of a row, 0-based."""
        record = int(self._records[row])
        return int(self._ends[record - 1]) if record else 0

    def stop(self, row: int) -> int:
        """Return the offset behind a row and its line end."""
        return int(self._ends[self._records[row]])

    def line(self, row: int) -> int:
        """Return the line of the file where a row begins, 1-based."""
        record = int(self._records[row])
        return self._block.line + (int(self._lines[record - 1]) if record else 0)

    def text(self, first: int, behind: int) -> pa.Buffer:
        """Return the bytes of the rows from one up to another."""
        start = self.start(first)
        return self._block.data.slice(start, self.stop(behind - 1) - start)


@dataclass(frozen=True, slots=True)
class BrokenRecord:
    """The first row that does not fit those before it."""

    line: int
    record: bytes
    before: pa.Buffer  # the records of the block before it
    rows_before: int


def broken_while_read(
    block: RecordBlock, line_format: LineFormat, schema: pa.Schema, cause: ValueError
) -> InvalidSource:
    """Make the error for a block that does not parse with the source's schema."""
    broken = _find(block, line_format, lambda data, rows: line_format.parse(data, rows, schema))
    if broken is None:
        return _error(block.uri, block.line, RecordProblem(_first_line(cause)), "")
    problem = _problem_with(line_format, broken, schema, cause, widen=False)
    hint = ""
    if problem.column is not None:
        hint = (
            "Columns and types are inferred from the beginning of each file. Give the column a type with `schema`, or "
            'name the columns to read with `columns`; `on_bad_line` "dead" makes such lines dead letters.'
        )
    return _error(block.uri, broken.line, problem, hint)


def broken_while_scanned(
    block: RecordBlock, line_format: LineFormat, known: pa.Schema | None, cause: ValueError
) -> InvalidSource:
    """Make the error for a block whose columns and types cannot be inferred, or do not fit those known before it."""

    def united(data: pa.Buffer, rows: int) -> pa.Schema:
        found = line_format.infer(data, rows)
        return found if known is None else line_format.unite(known, found)

    broken = _find(block, line_format, united)
    if broken is None:
        return _error(block.uri, block.line, RecordProblem(_first_line(cause)), "")
    expected = united(broken.before, broken.rows_before) if broken.rows_before else known or pa.schema([])
    problem = _problem_with(line_format, broken, expected, cause, widen=True)
    hint = "Give the column one type in all files, or a type with `schema`." if problem.column is not None else ""
    return _error(block.uri, broken.line, problem, hint)


def explain_record(line_format: LineFormat, record: bytes, schema: pa.Schema, cause: ValueError) -> str:
    """Return why a record does not have a schema, as a clause."""
    broken = BrokenRecord(0, record, pa.py_buffer(b""), 0)
    return _problem_with(line_format, broken, schema, cause, widen=False).text


def _find(
    block: RecordBlock, line_format: LineFormat, check: Callable[[pa.Buffer, int], object]
) -> BrokenRecord | None:
    """Find the last row of the shortest beginning of a block that `check` refuses, by bisection."""
    places = RecordPlaces(block, line_format.layout)
    good, bad = 0, block.rows + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if middle <= len(places) and _passes(check, block.data.slice(0, places.stop(middle - 1)), middle):
            good = middle
        else:
            bad = middle
    if bad > min(block.rows, len(places)):
        return None
    row = bad - 1
    record = places.text(row, row + 1).to_pybytes()
    return BrokenRecord(places.line(row), record, block.data.slice(0, places.start(row)), row)


def _passes(check: Callable[[pa.Buffer, int], object], data: pa.Buffer, rows: int) -> bool:
    try:
        check(data, rows)
    except ValueError:
        return False
    return True


def _problem_with(
    line_format: LineFormat, broken: BrokenRecord, expected: pa.Schema, cause: ValueError, *, widen: bool
) -> RecordProblem:
    try:
        problem = line_format.explain(broken.record, expected, widen=widen)
    except ValueError as error:
        return RecordProblem(_first_line(error))
    return problem or RecordProblem(_first_line(cause))


def _error(uri: str, line: int, problem: RecordProblem, hint: str) -> InvalidSource:
    details = {"file": uri, "line": line} | ({"column": problem.column} if problem.column is not None else {})
    return InvalidSource(f"{uri}, line {line}: {problem.text}.", hint=hint or _HINT, **details)


def _first_line(error: ValueError) -> str:
    """Return a parser's message without the row numbers that it counts for itself."""
    line = first_line(error)
    return _OWN_ROW.sub("", line).rstrip(".")


def _last(sums: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
    return int(sums[-1]) if len(sums) else 0
