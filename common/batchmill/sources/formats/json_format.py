"""JSON Lines: an object a line, its fields are the columns."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from batchmill.sources.formats.csv_values import EXACT
from batchmill.sources.formats.json_fields import (
    TwiceError,
    inexact_column,
    objects,
    replaced,
    rewritten,
    wide_integers,
)
from batchmill.sources.formats.line_format import LineFormat, RecordProblem, not_utf8, one_string
from batchmill.sources.formats.records import Layout
from batchmill.sources.schemas import SchemaConflictError, unite, unite_types

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

MAX_NESTING = 60
_BLANKS = b" \t\r\n"
_JSON_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')


class JsonLinesFormat(LineFormat):
    """Every line is a JSON object, its fields are the columns; lines of white space only are passed over.

    Text that looks like a time stays text. Integers beyond int64 are uint64, or refused; so are those beside
    fractions that double cannot hold.
    selected: pass over all fields but these, whatever they hold; None: a field that the schema lacks is refused.
    given: types of some columns. json_text: columns whose values are kept as they are written.
    """

    def __init__(
        self,
        selected: Collection[str] | None = None,
        given: Mapping[str, pa.DataType] | None = None,
        json_text: Collection[str] = (),
    ) -> None:
        self.layout = Layout(blanks=_BLANKS)
        self._selected = None if selected is None else frozenset(selected)
        self._json_text = frozenset(json_text)
        self._given = {**(given or {}), **dict.fromkeys(self._json_text, pa.string())}
        self._texts = {name for name, kind in self._given.items() if pa.types.is_string(kind)} - self._json_text
        self._others = "error" if selected is None else "ignore"

    def infer(self, data: pa.Buffer, rows: int) -> pa.Schema:
        """Infer the fields of all these objects; integers and fractions together are fractions, null is anything."""
        _refuse_deep_nesting(data)
        data = self._with_json_text(data)
        read_as = pa.schema([(name, _read_as(kind)) for name, kind in self._given.items() if self._is_selected(name)])
        options = arrow_json.ParseOptions(explicit_schema=read_as, unexpected_field_behavior="infer")
        try:
            table = self._read(data, rows, options)
        except ValueError:
            if self._selected is None and not self._texts:
                raise
            data = rewritten(data, keep=self._selected, as_text=(), scalars_as_text=self._texts)
            table = self._read(data, rows, options)
        schema = pa.schema([pa.field(field.name, self._inferred(field)) for field in table.schema])
        _convert_given(table, schema, self._given)
        return self._with_large_integers(data, rows, table, schema)

    def _inferred(self, field: pa.Field) -> pa.DataType:
        if not self._is_selected(field.name):
            return pa.null()
        return self._given.get(field.name) or _without_times(field.type)

    def _is_selected(self, name: str) -> bool:
        return self._selected is None or name in self._selected

    def _with_large_integers(self, data: pa.Buffer, rows: int, table: pa.Table, schema: pa.Schema) -> pa.Schema:
        """Make the columns uint64 that are double only because their integers are beyond int64."""
        if not _has_large_doubles(table):
            return schema
        paths = {path for row in objects(data) for path in wide_integers(row) if self._may_widen(path, schema)}
        for path in sorted(paths):
            place = schema.get_field_index(path[0])
            kind = replaced(schema.field(place).type, path[1:], pa.uint64())
            schema = schema.set(place, pa.field(path[0], kind))
        self.parse(data, rows, schema)
        return schema

    def _may_widen(self, path: tuple[str, ...], schema: pa.Schema) -> bool:
        return path[0] in schema.names and path[0] not in self._given and self._is_selected(path[0])

    def unite(self, left: pa.Schema, right: pa.Schema) -> pa.Schema:
        """All fields of either."""
        return unite(left, right)

    def final_schema(self, schema: pa.Schema) -> pa.Schema:
        """Add the columns whose type was given and that no row has shown yet."""
        missing = [(name, kind) for name, kind in self._given.items() if name not in schema.names]
        return pa.schema([*schema, *(pa.field(name, kind) for name, kind in missing if self._is_selected(name))])

    def parse(self, data: pa.Buffer, rows: int, schema: pa.Schema) -> pa.Table:
        """Parse the rows; a field that is missing is null."""
        data = self._with_json_text(data)
        read_as = [(f.name, _read_as(f.type) if f.name in self._given else f.type) for f in schema]
        options = arrow_json.ParseOptions(explicit_schema=pa.schema(read_as), unexpected_field_behavior=self._others)
        try:
            table = self._read(data, rows, options)
        except ValueError:
            if not self._texts:
                raise
            data = rewritten(data, keep=None, as_text=(), scalars_as_text=self._texts)
            table = self._read(data, rows, options)
        if _has_large_doubles(table):
            _refuse_inexact(data, schema)
        return _convert_given(table.select(schema.names), schema, self._given)

    def _with_json_text(self, data: pa.Buffer) -> pa.Buffer:
        if not self._json_text:
            return data
        return rewritten(data, keep=None, as_text=self._json_text, scalars_as_text=())

    def explain(self, record: bytes, expected: pa.Schema, *, widen: bool) -> RecordProblem | None:
        """Return what keeps the record from being an object whose fields have the expected types."""
        try:
            value = json.loads(record.decode(), object_pairs_hook=_unique)
        except UnicodeDecodeError:
            return not_utf8(record)
        except json.JSONDecodeError as error:
            return RecordProblem(
                f"this is no JSON object: {error.msg[0].lower()}{error.msg[1:]}, at character {error.colno}"
            )
        except RecursionError:
            return RecordProblem(f"its values are nested deeper than {MAX_NESTING} levels")
        if not isinstance(value, dict):
            return RecordProblem(f"expected a JSON object, got {_json_kind(value)}")
        known = pa.schema([field for field in expected if field.name in value])
        if (found := inexact_column(value, known)) is not None:
            return RecordProblem(f"column {found[0]!r} holds {found[1]}, which double cannot hold exactly", found[0])
        for name, kind in self._given.items():
            if name in value and not self._fits(record, name, kind):
                return RecordProblem(f"column {name!r} holds a value that is no {kind}, which `schema` gives it", name)
        seen = self.infer(pa.py_buffer(record), 1)
        reasons = (self._difference(field, expected, widen) for field in seen)
        return next(filter(None, reasons), None)

    def _fits(self, record: bytes, name: str, kind: pa.DataType) -> bool:
        alone = JsonLinesFormat([name], {name: kind}, self._json_text & {name})
        try:
            alone.parse(pa.py_buffer(record), 1, pa.schema([(name, kind)]))
        except ValueError:
            return False
        return True

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
        one_string(data)
        _refuse_other_values(data)
        one_block = arrow_json.ReadOptions(use_threads=False, block_size=max(data.size, 1))
        table = arrow_json.read_json(pa.BufferReader(data), read_options=one_block, parse_options=options)
        if table.num_rows != rows:
            raise ValueError(f"{table.num_rows} objects in {rows} lines; expected one object a line")
        return table


def _read_as(kind: pa.DataType) -> pa.DataType:
    """Return the type to parse JSON with for a column that is to be converted: dates and times are text."""
    return pa.string() if pa.types.is_date(kind) or pa.types.is_time(kind) else kind


def _convert_given(table: pa.Table, schema: pa.Schema, given: Mapping[str, pa.DataType]) -> pa.Table:
    for name, kind in given.items():
        if name in schema.names and _read_as(kind) != kind:
            table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(kind))
    return table


def _has_large_doubles(table: pa.Table) -> bool:
    """Whether any double is so large that an integer may have changed."""
    for column in table.columns:
        for leaf in _doubles(column):
            low, high = pc.min_max(leaf).as_py().values()
            if low is not None and max(abs(low), abs(high)) >= EXACT:
                return True
    return False


def _doubles(column: pa.ChunkedArray | pa.Array) -> Iterator[pa.ChunkedArray | pa.Array]:
    if pa.types.is_float64(column.type):
        yield column
    elif pa.types.is_list(column.type):
        yield from _doubles(pc.list_flatten(column))
    elif pa.types.is_struct(column.type):
        for place in range(column.type.num_fields):
            yield from _doubles(pc.struct_field(column, [place]))


def _refuse_inexact(data: pa.Buffer, schema: pa.Schema) -> None:
    for row in objects(data):
        if (found := inexact_column(row, schema)) is not None:
            raise ValueError(f"column {found[0]!r} holds {found[1]}, which double cannot hold exactly")


def _unique(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    names = Counter(name for name, _ in fields)
    double = next((name for name, count in names.items() if count > 1), None)
    if double is not None:
        raise TwiceError(f"the field {double!r} is there twice")
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
        line = text[start : stop if stop >= 0 else len(text)].lstrip(_BLANKS)
        if line and not line.startswith(b"{"):
            raise ValueError("a line is no JSON object")


def _refuse_deep_nesting(data: pa.Buffer) -> None:
    """Raise `ValueError` for values nested deeper than Arrow can store: inferring their type exhausts the stack."""
    text = data.to_pybytes()
    if text.count(b"[") + text.count(b"{") <= MAX_NESTING:
        return
    for line in text.split(b"\n"):
        if is_too_deep(line):
            raise ValueError(f"its values are nested deeper than {MAX_NESTING} levels")


def is_too_deep(text: bytes) -> bool:
    """Return whether values of a JSON text are nested deeper than Arrow can store."""
    return text.count(b"[") + text.count(b"{") > MAX_NESTING and _nesting(text) > MAX_NESTING


def _nesting(line: bytes) -> int:
    array = np.frombuffer(_JSON_TEXT.sub(b"", line), np.uint8)
    steps = np.isin(array, (ord("["), ord("{"))).astype(np.int32) - np.isin(array, (ord("]"), ord("}")))
    return int(np.cumsum(steps).max(initial=0))


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
