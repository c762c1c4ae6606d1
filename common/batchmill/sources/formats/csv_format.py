"""CSV: records of values between delimiters, in the dialect that the source's options give."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from batchmill.errors import InvalidSource
from batchmill.jobs.files import CsvDialect
from batchmill.sources.formats.csv_values import converted, narrowest
from batchmill.sources.formats.line_format import LineFormat, RecordProblem, not_utf8
from batchmill.sources.formats.records import Layout, has_text_behind_a_quote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMMAS = CsvDialect()
_SINGLE_BYTES = {*(f"iso8859-{n}" for n in (*range(1, 12), *range(13, 17))), *(f"cp125{n}" for n in range(9))}
_SINGLE_BYTES |= {"utf-8", "ascii", "koi8-r", "koi8-u", "mac-roman", "cp437", "cp850", "cp852", "cp866"}
_SEVERAL_BYTES = {"gbk", "gb2312", "gb18030", "big5", "shift_jis", "cp932", "cp949", "euc_jp", "euc_kr"}
_CALCULATED = (pa.int64(), pa.float64(), pa.bool_())


def check_dialect(dialect: CsvDialect) -> None:
    """Raise `InvalidSource` naming the option of a dialect that cannot be."""
    marks = {"delimiter": dialect.delimiter, "quote": dialect.quote, "escape": dialect.escape}
    for option, mark in marks.items():
        if mark is not None and (not mark.isascii() or mark.isalnum() or mark in "\n\r "):
            raise _refused(
                option, f"expected a character of ASCII that is no letter, digit, blank or line end, got {mark!r}"
            )
    if dialect.delimiter in (dialect.quote, dialect.escape):
        raise _refused("delimiter", f"{dialect.delimiter!r} is also the quote or the escape")
    try:
        encoding = codecs.lookup(dialect.encoding).name
    except LookupError:
        encoding = ""
    if encoding not in _SINGLE_BYTES | _SEVERAL_BYTES:
        known = ", ".join(sorted(_SINGLE_BYTES | _SEVERAL_BYTES))
        raise _refused("encoding", f"expected one of {known}, got {dialect.encoding!r}", "Convert the file to UTF-8.")
    if encoding in _SEVERAL_BYTES and any(mark is not None and ord(mark) >= ord("@") for mark in marks.values()):
        raise _refused("encoding", f"in {dialect.encoding} a delimiter, quote or escape may be a part of a letter")


def _refused(option: str, reason: str, hint: str = "") -> InvalidSource:
    return InvalidSource(f"csv.{option}: {reason}.", hint=hint or "Give another one.", field=f"csv.{option}")


def csv_layout(dialect: CsvDialect) -> Layout:
    """Return how text of a dialect is cut into records."""
    return Layout(
        blanks=b"\r\n",
        quotes=dialect.quote is not None,
        quote=ord(dialect.quote or '"'),
        delimiter=ord(dialect.delimiter),
        escape=None if dialect.escape in (None, dialect.quote) else ord(dialect.escape or ""),
    )


class CsvFormat(LineFormat):
    """Records of values, each file with the same header; blank lines are no rows.

    A column of integers is int64, of numbers double, of true and false bool, and anything else text. Numbers
    with leading zeros and integers beyond 64 bits stay text, as times do. An empty value is null in a column
    that is not text. `given`: the types of some columns, which are then read as that type allows.
    """

    def __init__(
        self, header: Sequence[str], dialect: CsvDialect = COMMAS, given: Mapping[str, pa.DataType] | None = None
    ) -> None:
        self.header = tuple(header)
        self.layout = csv_layout(dialect)
        self._dialect = dialect
        self._given = dict(given or {})
        self._keeps_empty = dialect.null_values is None

    @property
    def has_header(self) -> bool:
        """Whether the first record of a file names the columns."""
        return self._dialect.header is True

    def infer(self, data: pa.Buffer, rows: int) -> pa.Schema:
        """Infer the narrowest type of each column that keeps what is written."""
        kinds = {name: self._given.get(name, pa.string()) for name in self.header}
        table = self._read(data, rows, kinds)
        types = [kinds[name] if name in self._given else narrowest(table[name]) for name in self.header]
        return pa.schema(list(zip(self.header, types, strict=True)))

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
        calculated = [f.name for f in schema if f.type in _CALCULATED and f.name not in self._given]
        table = self._read(data, rows, {f.name: pa.string() if f.name in calculated else f.type for f in schema})
        columns = [
            converted(table[f.name], f.type) if f.name in calculated else self._text(table[f.name]) for f in schema
        ]
        return pa.table(columns, schema=schema)

    def _text(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        is_empty_text = self._keeps_empty and column.null_count and pa.types.is_string(column.type)
        return pc.fill_null(column, "") if is_empty_text else column

    def _read(self, data: pa.Buffer, rows: int, kinds: Mapping[str, pa.DataType]) -> pa.Table:
        data = self._as_utf8(data)
        if self.layout.quotes and has_text_behind_a_quote(data, self.layout):
            raise ValueError("text follows a closing quote")
        table = arrow_csv.read_csv(
            pa.BufferReader(data),
            read_options=arrow_csv.ReadOptions(
                use_threads=False, block_size=data.size + 1, column_names=list(self.header)
            ),
            parse_options=_parse_options(self._dialect),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict(kinds),
                include_columns=list(kinds),
                null_values=[""] if self._keeps_empty else self._dialect.null_values,
                strings_can_be_null=True,
                quoted_strings_can_be_null=self._keeps_empty,
            ),
        )
        if table.num_rows != rows:
            raise ValueError(f"{table.num_rows} rows where {rows} were counted")
        return table

    def _as_utf8(self, data: pa.Buffer) -> pa.Buffer:
        if codecs.lookup(self._dialect.encoding).name == "utf-8":
            return data
        return pa.py_buffer(data.to_pybytes().decode(self._dialect.encoding).encode())

    def explain(self, record: bytes, expected: pa.Schema, *, widen: bool) -> RecordProblem | None:
        """Return what keeps the record from having the header's number of values, of the expected types."""
        try:
            record.decode(self._dialect.encoding)
        except UnicodeDecodeError as error:
            return not_utf8(record) or RecordProblem(f"its byte {error.start + 1} is no {self._dialect.encoding}")
        if self.layout.quotes and has_text_behind_a_quote(self._as_utf8(pa.py_buffer(record)), self.layout):
            return RecordProblem("text follows the quote that closes a value, expected a delimiter or the line's end")
        try:
            values = parse_record(record, self._dialect)
        except ValueError as error:
            return RecordProblem(str(error))
        if len(values) != len(self.header):
            names = ", ".join(self.header)
            return RecordProblem(f"expected {len(self.header)} values ({names[:200]}), got {len(values)}")
        for name, value in zip(self.header, values, strict=True):
            kind = self._given.get(name, expected.field(name).type if name in expected.names else pa.string())
            if (name in self._given or not widen) and not self._fits(record, name, kind):
                origin = "which `schema` gives it" if name in self._given else "before"
                return RecordProblem(f"column {name!r} holds {value[:60]!r} here, and {kind} {origin}", name)
        return None

    def _fits(self, record: bytes, name: str, kind: pa.DataType) -> bool:
        try:
            self.parse(pa.py_buffer(record), 1, pa.schema([(name, kind)]))
        except ValueError:
            return False
        return True


def parse_record(record: bytes, dialect: CsvDialect = COMMAS) -> list[str]:
    """Parse the values of one CSV record. Raises `ValueError` for what is none, or not in the dialect's encoding."""
    data = record.decode(dialect.encoding).encode()
    data += b"" if data.endswith(b"\n") else b"\n"
    first = _read_record(data, dialect, {})
    table = _read_record(data, dialect, dict.fromkeys(first.column_names, pa.string()))
    if table.num_rows > 1:
        raise ValueError("it contains a carriage return without a line feed")
    return [str(column[0].as_py()) for column in table.columns] if table.num_rows else []


def _read_record(data: bytes, dialect: CsvDialect, kinds: Mapping[str, pa.DataType]) -> pa.Table:
    return arrow_csv.read_csv(
        pa.BufferReader(data),
        read_options=arrow_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, autogenerate_column_names=True),
        parse_options=_parse_options(dialect),
        convert_options=arrow_csv.ConvertOptions(column_types=dict(kinds)),
    )


def _parse_options(dialect: CsvDialect) -> Any:
    layout = csv_layout(dialect)
    return arrow_csv.ParseOptions(
        newlines_in_values=True,
        delimiter=dialect.delimiter,
        quote_char=dialect.quote or False,
        double_quote=dialect.quote is not None,
        escape_char=False if layout.escape is None else chr(layout.escape),
    )


def _wider(left: pa.Field, right: pa.Field) -> pa.DataType:
    kinds = {left.type, right.type} - {pa.null()}
    if len(kinds) < 2:
        return next(iter(kinds), pa.null())
    return pa.float64() if kinds == {pa.int64(), pa.float64()} else pa.string()
