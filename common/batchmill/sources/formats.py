"""The text formats: how each is divided into rows, what types its rows have, and how they are parsed."""

from __future__ import annotations

import csv
import io
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv
from pyarrow import json as arrow_json

from batchmill.sources.records import Layout
from batchmill.sources.schemas import SchemaConflictError, unite, unite_types

if TYPE_CHECKING:
    from collections.abc import Sequence

_INTEGER = r"^-?(0|[1-9][0-9]*)$"
_NUMBER = r"^-?((0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?|inf|nan|Inf|NaN)$"
_JSON_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
MAX_NESTING = 60
_TRUTH = r"^(true|false|True|False|TRUE|FALSE)$"


@dataclass(frozen=True, slots=True)
class RecordProblem:
    """Why a record does not fit: a clause for a message, and the column that it is about."""

    text: str
    column: str | None = None


class LineFormat(ABC):
    """A text format. `data` is always a run of complete records with `rows` rows.

    What does not parse raises `ValueError`; where and why is found out afterwards, in `faults`.
    """

    layout: ClassVar[Layout]

    @abstractmethod
    def infer(self, data: pa.Buffer, rows: int) -> pa.Schema:
        """Infer the columns and types of these rows."""

    @abstractmethod
    def unite(self, left: pa.Schema, right: pa.Schema) -> pa.Schema:
        """Return the schema for rows of both. Raises `SchemaConflictError` if there is none."""

    @abstractmethod
    def parse(self, data: pa.Buffer, rows: int, schema: pa.Schema) -> pa.Table:
        """Parse the rows, with exactly this schema."""

    @abstractmethod
    def explain(self, record: bytes, expected: pa.Schema, *, widen: bool) -> RecordProblem | None:
        """Return what is wrong with one record; None if it is not known.

        widen: new columns and wider types are right, only those that fit no wider type are wrong.
        """

    def final_schema(self, schema: pa.Schema) -> pa.Schema:
        """Return the schema to read with, once all types were united."""
        return schema


class PlainTextFormat(LineFormat):
    """Every line is a row, blank ones too, with the one column `text`."""

    layout = Layout()
    schema = pa.schema([("text", pa.string())])

    def infer(self, data: pa.Buffer, rows: int) -> pa.Schema:
        """Return the one column that there always is; raises `ValueError` for what is no UTF-8."""
        self.parse(data, rows, self.schema)
        return self.schema

    def unite(self, left: pa.Schema, right: pa.Schema) -> pa.Schema:  # noqa: ARG002  # there is only one
        """Return the one schema."""
        return left

    def parse(self, data: pa.Buffer, rows: int, schema: pa.Schema) -> pa.Table:
        """One row a line, without its line end."""
        lines = pc.split_pattern(_one_string(data), "\n").values.slice(0, rows)
        if b"\r" in data.to_pybytes():
            lines = pc.replace_substring_regex(lines, r"\r$", "")
        if len(lines) != rows:
            raise ValueError(f"{len(lines)} lines, expected {rows}")
        return pa.table([lines], schema=self.schema).select(schema.names)

    def explain(self, record: bytes, expected: pa.Schema, *, widen: bool) -> RecordProblem | None:  # noqa: ARG002  # no types
        """Only UTF-8 can be wrong."""
        return _not_utf8(record)


class JsonLinesFormat(LineFormat):
    """Every line is a JSON object, its fields are the columns; lines of white space only are passed over.

    Text that looks like a time stays text. Whole numbers beyond 64 bits become floating-point numbers.
    ignore_others: pass over fields that the schema does not have, instead of refusing them.
    """

    layout = Layout(blanks=b" \t\r\n")

    def __init__(self, *, ignore_others: bool = False) -> None:
        self._others = "ignore" if ignore_others else "error"

    def infer(self, data: pa.Buffer, rows: int) -> pa.Schema:
        """Infer the fields of all these objects; integers and fractions together are fractions, null is anything."""
        _refuse_deep_nesting(data)
        schema = self._read(data, rows, arrow_json.ParseOptions()).schema
        return pa.schema([pa.field(field.name, _without_times(field.type)) for field in schema])

    def unite(self, left: pa.Schema, right: pa.Schema) -> pa.Schema:
        """All fields of either."""
        return unite(left, right)

    def parse(self, data: pa.Buffer, rows: int, schema: pa.Schema) -> pa.Table:
        """Parse the rows; a field that is missing is null."""
        options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior=self._others)
        return self._read(data, rows, options).select(schema.names)

    def explain(self, record: bytes, expected: pa.Schema, *, widen: bool) -> RecordProblem | None:
        """Return what keeps the record from being an object whose fields have the expected types."""
        try:
            value = json.loads(record.decode(), object_pairs_hook=_unique)
        except UnicodeDecodeError:
            return _not_utf8(record)
        except json.JSONDecodeError as error:
            return RecordProblem(
                f"this is no JSON object: {error.msg[0].lower()}{error.msg[1:]}, at character {error.colno}"
            )
        except RecursionError:
            return RecordProblem(f"its values are nested deeper than {MAX_NESTING} levels")
        if not isinstance(value, dict):
            return RecordProblem(f"expected a JSON object, got {_json_kind(value)}")
        found = self.infer(pa.py_buffer(record), 1)
        reasons = (self._difference(field, expected, widen) for field in found)
        return next(filter(None, reasons), None)

    def _difference(self, found: pa.Field, expected: pa.Schema, widen: bool) -> RecordProblem | None:
        if found.name not in expected.names:
            is_right = widen or self._others == "ignore"
            return None if is_right else RecordProblem(f"it has a new field {found.name!r}", found.name)
        known = expected.field(found.name)
        try:
            if unite_types(known, found) == known.type or widen:
                return None
        except SchemaConflictError:
            pass
        return RecordProblem(f"column {found.name!r} holds {found.type} here, and {known.type} before", found.name)

    def _read(self, data: pa.Buffer, rows: int, options: arrow_json.ParseOptions) -> pa.Table:
        _one_string(data)
        _refuse_other_values(data)
        whole = arrow_json.ReadOptions(use_threads=False, block_size=max(data.size, 1))
        table = arrow_json.read_json(pa.BufferReader(data), read_options=whole, parse_options=options)
        if table.num_rows != rows:
            raise ValueError(f"{table.num_rows} objects in {rows} lines; expected one object a line")
        return table


class CsvFormat(LineFormat):
    """Records of values separated by commas, the first one of each file names the columns; blank lines are no rows.

    A column of whole numbers is int64, of numbers double, of true and false bool, and anything else text. Numbers
    with leading zeros and whole numbers beyond 64 bits stay text, as times do. An empty value is null in a column
    that is not text.
    """

    layout = Layout(blanks=b"\r\n", quotes=True)

    def __init__(self, header: Sequence[str]) -> None:
        self.header = tuple(header)

    def infer(self, data: pa.Buffer, rows: int) -> pa.Schema:
        """Infer the narrowest type of each column that keeps what is written."""
        table = self.parse(data, rows, pa.schema([(name, pa.string()) for name in self.header]))
        return pa.schema([(name, _narrowest(table[name])) for name in self.header])

    def unite(self, left: pa.Schema, right: pa.Schema) -> pa.Schema:
        """Return the wider type of each column; text holds all."""
        return pa.schema([(field.name, _wider(field, right.field(field.name))) for field in left])

    def final_schema(self, schema: pa.Schema) -> pa.Schema:
        """Make columns without any value text."""
        types = [pa.string() if pa.types.is_null(field.type) else field.type for field in schema]
        return pa.schema(list(zip(schema.names, types, strict=True)))

    def parse(self, data: pa.Buffer, rows: int, schema: pa.Schema) -> pa.Table:
        """Parse the rows, only the schema's columns."""
        if not rows:
            return schema.empty_table()
        table = arrow_csv.read_csv(
            pa.BufferReader(data),
            read_options=arrow_csv.ReadOptions(
                use_threads=False, block_size=data.size + 1, column_names=list(self.header)
            ),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=schema, include_columns=schema.names, null_values=[""], strings_can_be_null=False
            ),
        )
        if table.num_rows != rows:
            raise ValueError(f"{table.num_rows} rows where {rows} were counted")
        return table

    def explain(self, record: bytes, expected: pa.Schema, *, widen: bool) -> RecordProblem | None:
        """Return what keeps the record from having the header's number of values, of the expected types."""
        try:
            values = parse_record(record)
        except UnicodeDecodeError:
            return _not_utf8(record)
        if len(values) != len(self.header):
            return RecordProblem(f"expected {len(self.header)} values ({', '.join(self.header)}), got {len(values)}")
        for name, value in zip(self.header, values, strict=True):
            if not widen and name in expected.names and not _fits(value, expected.field(name).type):
                kind = expected.field(name).type
                return RecordProblem(f"column {name!r} holds {value[:60]!r} here, and {kind} before", name)
        return (
            RecordProblem("it contains a carriage return without a line feed")
            if b"\r" in record.rstrip(b"\r\n")
            else None
        )


def parse_record(record: bytes) -> list[str]:
    """Parse the values of one CSV record. Raises `ValueError` for what is none, or no UTF-8."""
    try:
        return next(csv.reader(io.StringIO(record.decode(), newline="")), [])
    except csv.Error as error:
        raise ValueError(str(error)) from error


def _one_string(data: pa.Buffer) -> pa.Array:
    """Return the bytes as a single string, not copied. Raises `ValueError` if they are no UTF-8."""
    offsets = pa.array([0, data.size], pa.int64()).buffers()[1]
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data]).cast(pa.large_string())


class _TwiceError(ValueError):
    """An object has two fields of one name."""


def _unique(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    names = Counter(name for name, _ in fields)
    double = next((name for name, count in names.items() if count > 1), None)
    if double is not None:
        raise _TwiceError(f"the field {double!r} is there twice")
    return dict(fields)


def _refuse_other_values(data: pa.Buffer) -> None:
    """Raise `ValueError` for a line that does not begin an object: pyarrow crashes on some that begin with null."""
    array = np.frombuffer(data, np.uint8)
    starts = np.concatenate(([0], np.flatnonzero(array == ord("\n")) + 1))
    starts = starts[starts < len(array)]
    first = array[starts]
    odd = starts[(first != ord("{")) & (first != ord("\n"))]
    text = data.to_pybytes() if len(odd) else b""
    for start in odd.tolist():
        stop = text.find(b"\n", start)
        line = text[start : stop if stop >= 0 else len(text)].lstrip(JsonLinesFormat.layout.blanks)
        if line and not line.startswith(b"{"):
            raise ValueError("a line is no JSON object")


def _refuse_deep_nesting(data: pa.Buffer) -> None:
    """Raise `ValueError` for values nested deeper than Arrow can store: inferring their type exhausts the stack."""
    text = data.to_pybytes()
    if text.count(b"[") + text.count(b"{") <= MAX_NESTING:
        return
    for line in text.split(b"\n"):
        if line.count(b"[") + line.count(b"{") > MAX_NESTING and _nesting(line) > MAX_NESTING:
            raise ValueError(f"its values are nested deeper than {MAX_NESTING} levels")


def _nesting(line: bytes) -> int:
    array = np.frombuffer(_JSON_TEXT.sub(b"", line), np.uint8)
    steps = np.isin(array, (ord("["), ord("{"))).astype(np.int32) - np.isin(array, (ord("]"), ord("}")))
    return int(np.cumsum(steps).max(initial=0))


def _not_utf8(record: bytes) -> RecordProblem | None:
    try:
        record.decode()
    except UnicodeDecodeError as error:
        return RecordProblem(f"its byte {error.start + 1}, {record[error.start]:#04x}, is no UTF-8")
    return None


def _json_kind(value: object) -> str:
    kinds = {list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _without_times(kind: pa.DataType) -> pa.DataType:
    """Return the type with text in place of the times that Arrow takes some text for."""
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_without_times(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _without_times(field.type)) for field in kind])
    return kind


def _narrowest(column: pa.ChunkedArray) -> pa.DataType:
    values = column.filter(pc.not_equal(column, ""))
    if not len(values):
        return pa.null()
    for pattern, kind in ((_INTEGER, pa.int64()), (_NUMBER, pa.float64()), (_TRUTH, pa.bool_())):
        if pc.all(pc.match_substring_regex(values, pattern)).as_py():
            return kind if _fits_all(values, kind) else pa.string()
    return pa.string()


def _fits_all(values: pa.ChunkedArray, kind: pa.DataType) -> bool:
    try:
        values.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _wider(left: pa.Field, right: pa.Field) -> pa.DataType:
    kinds = {left.type, right.type} - {pa.null()}
    if len(kinds) < 2:
        return next(iter(kinds), pa.null())
    return pa.float64() if kinds == {pa.int64(), pa.float64()} else pa.string()


def _fits(value: str, kind: pa.DataType) -> bool:
    if kind == pa.string() or not value:
        return True
    data = pa.py_buffer(f'"{value}"\n'.encode())
    try:
        CsvFormat(["value"]).parse(data, 1, pa.schema([("value", kind)]))
    except ValueError:
        return False
    return True
