"""Find the line at fault when a block of records does not parse: parsers report only that there is one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from batchmill.errors import InvalidSource
from batchmill.sources.formats import RecordProblem
from batchmill.sources.records import RecordScanner

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.sources.formats import LineFormat

_OWN_ROW = re.compile(r" in row \d+|Row #\d+: ")


@dataclass(frozen=True, slots=True)
class RecordBlock:
    """Complete records of a file that were read at once."""

    uri: str
    line: int  # 1-based, of the first byte
    rows: int
    data: pa.Buffer


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
            "Columns and types are inferred from the beginning of each file. Name the columns to read with `columns`, "
            "move such a row to the beginning of a file, or write the source as Parquet, which states its types."
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
    hint = "Give the column one type in all files." if problem.column is not None else ""
    return _error(block.uri, broken.line, problem, hint)


def _find(
    block: RecordBlock, line_format: LineFormat, check: Callable[[pa.Buffer, int], object]
) -> BrokenRecord | None:
    """Find the last row of the shortest beginning of a block that `check` refuses, by bisection."""
    scanner = RecordScanner(line_format.layout)
    parts = [scanner.scan(block.data), scanner.finish()]
    ends = np.concatenate([part.ends for part in parts])
    lines = np.concatenate([parts[0].lines, parts[1].lines + _last(parts[0].lines)])
    rows = np.concatenate([parts[0].rows, parts[1].rows + _last(parts[0].rows)])
    good, bad = 0, block.rows + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        place = int(np.searchsorted(rows, middle))
        if place < len(ends) and _passes(check, block.data.slice(0, int(ends[place])), middle):
            good = middle
        else:
            bad = middle
    place = int(np.searchsorted(rows, bad))
    if bad > block.rows or place >= len(ends):
        return None
    start = int(ends[place - 1]) if place else 0
    line = block.line + (int(lines[place - 1]) if place else 0)
    record = block.data.slice(start, int(ends[place]) - start).to_pybytes()
    return BrokenRecord(line, record, block.data.slice(0, start), bad - 1)


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
    return InvalidSource(f"{uri}, line {line}: {problem.text}.", hint=hint or "Fix or delete the line.", **details)


def _first_line(error: ValueError) -> str:
    """Return a parser's message without the row numbers that it counts for itself."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return _OWN_ROW.sub("", line).rstrip(".")


def _last(sums: np.ndarray[tuple[int], np.dtype[np.int64]]) -> int:
    return int(sums[-1]) if len(sums) else 0
