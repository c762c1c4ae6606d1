"""Rows that cannot be read: found one by one, so that all others are read as if they were not there.

A run of records that does not parse is halved, and each half parsed by itself, down to the records at fault. So n of
them in a run cost about n times log(rows) parses of ever shorter runs, and none in a run that parses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.sources.base import BadRow, RowsRead, null_rows
from batchmill.sources.text.faults import RecordPlaces, explain_record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.sources.formats.line_format import LineFormat
    from batchmill.sources.text.faults import RecordBlock

MAX_TEXT_BYTES = 2 * 1024
"""What a dead letter keeps of a line."""


@dataclass(frozen=True, slots=True)
class _Run:
    first: int  # row of the block
    behind: int

    def halves(self) -> Iterator[_Run]:
        middle = (self.first + self.behind) // 2
        yield _Run(middle, self.behind)
        yield _Run(self.first, middle)


def read_good_rows(block: RecordBlock, line_format: LineFormat, schema: pa.Schema) -> RowsRead:
    """Parse a block; a row that does not parse is null, and listed. Raises `ValueError` for another number of rows."""
    try:
        return RowsRead(line_format.parse(block.data, block.rows, schema))
    except ValueError as error:
        places = RecordPlaces(block, line_format.layout)
        if len(places) != block.rows:
            raise ValueError(f"{len(places)} rows where {block.rows} were counted") from error
    tables: list[pa.Table] = []
    bad: list[BadRow] = []
    left = list(_Run(0, block.rows).halves()) if block.rows > 1 else [_Run(0, 1)]
    while left:
        run = left.pop()
        try:
            tables.append(line_format.parse(places.text(run.first, run.behind), run.behind - run.first, schema))
        except ValueError as error:
            if run.behind - run.first > 1:
                left += run.halves()
                continue
            record = places.text(run.first, run.behind).to_pybytes()
            reason = explain_record(line_format, record, schema, error)
            bad.append(BadRow(run.first, block.uri, places.line(run.first), _shown(record), reason))
            tables.append(null_rows(schema, 1))
    return RowsRead(pa.concat_tables(tables), tuple(bad))


def infer_good_rows(block: RecordBlock, line_format: LineFormat, known: pa.Schema | None) -> pa.Schema | None:
    """Unite `known` with the schema of those rows of a block whose types go with it, and with those before them."""
    places = RecordPlaces(block, line_format.layout)
    left = [_Run(0, len(places))] if len(places) else []
    while left:
        run = left.pop()
        try:
            found = line_format.infer(places.text(run.first, run.behind), run.behind - run.first)
            known = found if known is None else line_format.unite(known, found)
        except ValueError:
            if run.behind - run.first > 1:
                left += run.halves()
    return known


def _shown(record: bytes) -> str:
    text = record[:MAX_TEXT_BYTES].decode("utf-8", "replace").rstrip("\r\n")
    return text if len(record) <= MAX_TEXT_BYTES else f"{text} …"
