"""What a text format is: how it is divided into rows, what types its rows have, and how they are parsed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from batchmill.sources.formats.records import Layout


@dataclass(frozen=True, slots=True)
class RecordProblem:
    """Why a record does not fit: a clause for a message, and the column that it is about."""

    text: str
    column: str | None = None


class LineFormat(ABC):
    """A text format. `data` is always a run of complete records with `rows` rows.

    What does not parse raises `ValueError`; where and why is found out afterwards, in `faults`.
    """

    layout: Layout

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
        lines = pc.split_pattern(one_string(data), "\n").values.slice(0, rows)
        if b"\r" in data.to_pybytes():
            lines = pc.replace_substring_regex(lines, r"\r$", "")
        if len(lines) != rows:
            raise ValueError(f"{len(lines)} lines, expected {rows}")
        return pa.table([lines], schema=self.schema).select(schema.names)

    def explain(self, record: bytes, expected: pa.Schema, *, widen: bool) -> RecordProblem | None:  # noqa: ARG002  # no types
        """Only UTF-8 can be wrong."""
        return not_utf8(record)


def one_string(data: pa.Buffer) -> pa.Array:
    """Return the bytes as a single string, not copied. Raises `ValueError` if they are no UTF-8."""
    offsets = pa.array([0, data.size], pa.int64()).buffers()[1]
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, data]).cast(pa.large_string())


def not_utf8(record: bytes) -> RecordProblem | None:
    """Return which byte keeps a record from being UTF-8, if any does."""
    try:
        record.decode()
    except UnicodeDecodeError as error:
        return RecordProblem(f"its byte {error.start + 1}, {record[error.start]:#04x}, is no UTF-8")
    return None
