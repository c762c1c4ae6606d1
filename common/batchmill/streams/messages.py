"""Messages of a stream as rows: JSON objects, or fields of text. A message that is no row is a bad row. Pure."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.columns import array_as, array_of
from batchmill.columns import rows_of as table_rows
from batchmill.columns.carried_types import RESERVED_PREFIX, reserved_column
from batchmill.columns.widening import TypeConflictError
from batchmill.jobs.dead_letters import json_value
from batchmill.sources.base import BadRow, RowsRead, bad_rows_of
from batchmill.sources.formats.json_format import MAX_NESTING, JsonLinesFormat, is_too_deep
from batchmill.stage_results import joined
from batchmill.streams.base import BAD_MESSAGE, LOST_MESSAGE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.streams.base import Message

SHOWN_BYTES = 1000
MILLISECONDS_FROM = 1e11  # a larger number is one of milliseconds: as seconds it would be the year 5138
MAX_NAMES = 1000
"""Different names of fields in the messages of a shard, of nested objects too: each is a column of all its rows."""
_NAMES = re.compile(rb'(?s)[{,]\s*+"([^"\\]*+(?:\\.[^"\\]*+)*+)"\s*+:')  # linear: no string has a quote behind , or {
MIN_TIME_MS, MAX_TIME_MS = -62_135_596_800_000, 253_402_300_799_999  # the beginning of the year 1, the end of 9999
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS_PER_S = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}


def rows_of(messages: Sequence[Message], types: Mapping[str, pa.DataType], where: str) -> RowsRead:
    """Make a table of messages, with a row for each. types: given types of columns. where: the stream, for people.

    Without a given type, a column has the type of its values among these messages; one that no row has is left out.
    """
    problems = _with_too_many_names([one.row for one in messages])
    if not any(isinstance(one.row, bytes) for one in messages):
        rows: list[Any] = [{} if place in problems else one.row for place, one in enumerate(messages)]
        return _checked(messages, rows, problems, types, where)
    lines = [one.row.strip(b" \t\r\n") if isinstance(one.row, bytes) else b"" for one in messages]
    fast = None if problems else _parse_together(lines, types)
    if fast is not None:
        return RowsRead(fast)
    rows = []
    for place, line in enumerate(lines):
        row, problem = ({}, problems[place]) if place in problems else _object(line)
        rows.append(row)
        if problem:
            problems[place] = problem
    return _checked(messages, rows, problems, types, where)


def table_of_texts(columns: Mapping[bytes, list[bytes]], types: Mapping[str, pa.DataType]) -> pa.Table | None:
    """Make the table that `rows_of` makes of fields that all messages have; None if anything about them is wrong."""
    try:
        texts = {name.decode(): values for name, values in columns.items()}
        if len(texts) > MAX_NAMES or reserved_column(list(texts)):
            return None
        found = {name: _of_texts(values, types.get(name)) for name, values in texts.items()}
    except (UnicodeDecodeError, pa.ArrowException):
        return None
    rows = len(next(iter(found.values())))
    missing = {name: column_of(name, [None] * rows, kind)[0] for name, kind in types.items() if name not in found}
    return pa.table(found | missing)


def _of_texts(values: list[bytes], kind: pa.DataType | None) -> pa.Array:
    texts = pa.array(values, pa.binary()).cast(pa.string())
    return texts if kind is None else texts.cast(kind)


def table_of_json(lines: Sequence[bytes], types: Mapping[str, pa.DataType]) -> pa.Table | None:
    """Make the table that `rows_of` makes of JSON objects; None if anything about them is wrong."""
    if _with_too_many_names(lines):
        return None
    return _parse_together([line.strip(b" \t\r\n") for line in lines], types)


def _with_too_many_names(rows: Sequence[bytes | Mapping[str, Any]]) -> dict[int, str]:
    """Return which messages bring more names of fields than all may have together, and what is wrong with them."""
    known: set[Any] = set()
    problems = {}
    for place, row in enumerate(rows):
        new = _names(row) - known
        if len(known) + len(new) <= MAX_NAMES:
            known |= new
        else:
            problems[place] = f"it brings more names of fields than the {MAX_NAMES:,} that a shard may have"
    return problems


def _names(row: bytes | Mapping[str, Any]) -> set[Any]:
    return set(_NAMES.findall(row) if isinstance(row, bytes) else row)


def _parse_together(lines: Sequence[bytes], types: Mapping[str, pa.DataType]) -> pa.Table | None:
    """Parse JSON objects at once; None if any of them is wrong, or unlike the others."""
    if not all(line.startswith(b"{") and b"\n" not in line for line in lines):
        return None
    data, json_lines = pa.py_buffer(b"\n".join(lines)), JsonLinesFormat(given=types)
    try:
        schema = json_lines.final_schema(json_lines.infer(data, len(lines)))
        return None if reserved_column(schema.names) else json_lines.parse(data, len(lines), schema)
    except ValueError:
        return None


def _object(line: bytes) -> tuple[dict[str, Any], str]:
    if is_too_deep(line):
        return {}, f"its values are nested deeper than {MAX_NESTING} levels"
    try:
        found = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return {}, "it is no JSON object: expected text in UTF-8"
    except ValueError as error:
        return {}, f"it is no JSON object: {error}"
    if not isinstance(found, dict):
        return {}, f"expected a JSON object, got {type(found).__name__}"
    try:
        "".join(found).encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair: no column can be called that
        return {}, f"the name of a field is no text: {error.reason}"
    return found, ""


def _checked(
    messages: Sequence[Message],
    rows: Sequence[Any],
    problems: dict[int, str],
    types: Mapping[str, pa.DataType],
    where: str,
) -> RowsRead:
    """Make a table of rows, column by column. A value that does not fit its type, or the first value, is at fault."""
    rows = list(rows)
    for place, row in enumerate(rows):
        if name := reserved_column(list(row)):
            problems.setdefault(place, f"field {name!r}: names that begin with {RESERVED_PREFIX!r} are Batchmill's own")
            rows[place] = {}
    names = dict.fromkeys([*(name for row in rows for name in row), *types])
    columns = {}
    for name in names:
        values = [None if place in problems else row.get(name) for place, row in enumerate(rows)]
        columns[name], faults = column_of(name, values, types.get(name))
        problems |= {place: text for place, text in faults.items() if place not in problems}
    bad = [
        BadRow(place, f"{where}, message {messages[place].offset}", 0, _shown(messages[place]), reason, BAD_MESSAGE)
        for place, reason in sorted(problems.items())
    ]
    table = pa.table(columns) if columns else pa.table({"message": pa.nulls(len(rows), pa.string())})
    return RowsRead(table, tuple(bad))


def united(parts: Sequence[RowsRead], types: Mapping[str, pa.DataType], where: str) -> RowsRead:
    """Append rows of a stream to each other. types: given types of columns. where: the stream, for people.

    Where parts differ in the type of a column for which none is given, values that do not fit its first one are at
    fault.
    """
    tables = [part.table for part in parts]
    columns, problems = {}, dict[int, str]()
    for name in dict.fromkeys([*(name for table in tables for name in table.column_names), *types]):
        columns[name], faults = _united_column(name, tables, types.get(name))
        problems |= {place: reason for place, reason in faults.items() if place not in problems}
    known = bad_rows_of(parts)
    at_fault = {one.place for one in known}
    bad = [
        BadRow(place, where, 0, _row_at(tables, place), why, BAD_MESSAGE)
        for place, why in problems.items()
        if place not in at_fault
    ]
    return RowsRead(pa.table(columns), tuple(sorted([*known, *bad], key=lambda one: one.place)))


def _row_at(tables: Sequence[pa.Table], place: int) -> str:
    for table in tables:
        if place < table.num_rows:
            return json.dumps(json_value(table_rows(table.slice(place, 1))[0]))[:SHOWN_BYTES]
        place -= table.num_rows
    raise IndexError(place)


def _united_column(
    name: str, tables: Sequence[pa.Table], kind: pa.DataType | None
) -> tuple[pa.ChunkedArray | pa.Array, dict[int, str]]:
    parts = [
        table.select([name]) if name in table.column_names else pa.table({name: pa.nulls(table.num_rows)})
        for table in tables
    ]
    with suppress(TypeConflictError):
        column = joined([pa.table({name: pa.array([], kind or pa.null())}), *parts])[name]
        if kind is None or column.type == kind:
            return column, {}
    return column_of(name, [value for part in parts for value in part[name].to_pylist()], kind)


def column_of(name: str, values: list[Any], kind: pa.DataType | None) -> tuple[pa.Array, dict[int, str]]:
    """Make a column of values; of those that do not fit its type, nulls. Returns also what is wrong with these.

    kind: its type; None: that of the values, or of the first of them.
    """
    try:
        return _array(values, kind), {}
    except (pa.ArrowException, OverflowError, TypeError, ValueError):
        pass
    kept: list[Any] = []
    faults: dict[int, str] = {}
    known = kind or _type_of_first(values)
    for place, value in enumerate(values):
        try:
            kept.append(_array([value], known)[0].as_py())
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            kept.append(None)
            expected = known or "a value"
            faults[place] = f"column {name!r}: expected {expected}, got {type(value).__name__} {value!r:.80}"
    return pa.array(kept, known), faults


def _array(values: list[Any], kind: pa.DataType | None) -> pa.Array:
    if kind is None:
        return array_of(values)
    texts = [value for value in values if value is not None]
    if texts and all(isinstance(value, str) for value in texts):
        return pa.array(values, pa.string()).cast(kind)  # as numbers and times are written
    return array_as(values, kind)


def _type_of_first(values: Sequence[Any]) -> pa.DataType | None:
    for value in values:
        if value is None:
            continue
        try:
            kind: pa.DataType = array_of([value]).type
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            continue
        return pa.float64() if pa.types.is_integer(kind) and any(isinstance(one, float) for one in values) else kind
    return pa.null()


def _shown(message: Message) -> str:
    if isinstance(message.row, bytes):
        return message.row[:SHOWN_BYTES].decode(errors="replace")
    return json.dumps(dict(message.row))[:SHOWN_BYTES]


def with_lost(found: RowsRead, lost: int, where: str) -> RowsRead:
    """Put rows that their source has deleted before those that were found: a stream is cut at its beginning."""
    if lost <= 0:
        return found
    schema = found.table.schema if len(found.table.schema) else pa.schema([("message", pa.string())])
    gone = pa.table([pa.nulls(lost, field.type) for field in schema], schema=schema)
    reason = "it was deleted from the stream before it was read; keep entries for longer, or add workers"
    bad = [BadRow(place, where, 0, "", reason, LOST_MESSAGE) for place in range(lost)]
    moved = [BadRow(one.place + lost, one.file, one.line, one.text, one.reason, one.error_type) for one in found.bad]
    table = pa.concat_tables([gone, found.table]) if found.table.num_rows else gone
    return RowsRead(table, (*bad, *moved))


def event_time_ms(message: Message, column: str | None) -> int | None:
    """Return the time of an event, milliseconds since the epoch; None if it has none. column: None: its arrival."""
    if column is None:
        return message.at_ms
    row: Any = message.row
    if isinstance(row, bytes):
        row, _ = _object(row)
    return parse_time_ms(row.get(column))


def times_ms(values: pa.ChunkedArray) -> list[int | None]:
    """Return the times in a column, in milliseconds since the epoch.

    None for what is no time, or in no year from 1 to 9999. Finer times are cut.
    """
    kind = values.type
    if pa.types.is_date32(kind):
        found = [None if days is None else days * 86_400_000 for days in values.cast(pa.int32()).to_pylist()]
    elif pa.types.is_timestamp(kind) or pa.types.is_date64(kind):
        per_s = _UNITS_PER_S["ms" if pa.types.is_date64(kind) else kind.unit]
        found = [None if at is None else at * 1000 // per_s for at in values.cast(pa.int64()).to_pylist()]
    else:
        found = [parse_time_ms(value) for value in values.to_pylist()]
    return [at if at is not None and MIN_TIME_MS <= at <= MAX_TIME_MS else None for at in found]


def parse_time_ms(value: object) -> int | None:
    """Read a time: ISO 8601, in UTC unless it has a zone, or a number of seconds or milliseconds since the epoch."""
    if isinstance(value, str):
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                return None
        else:
            return ((at if at.tzinfo else at.replace(tzinfo=UTC)) - _EPOCH) // timedelta(milliseconds=1)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_TIME_MS:
        return None
    # to microseconds first: 1.009 s times 1000 is below 1009
    return int(value) if value >= MILLISECONDS_FROM else round(value * 1_000_000) // 1000
