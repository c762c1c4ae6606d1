"""Columns that are not in the files: from folders named `column=value`, and the file that a row is from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from batchmill.errors import InvalidSource
from batchmill.sources.formats.csv_values import INTEGER, narrowest
from batchmill.sources.schemas import conform

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.jobs.files import FileSource
    from batchmill.sources.description import SourceDescription, SourceFile

_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


class FileColumns:
    """Adds to the rows of a file what its name says about them, or the log of its table."""

    def __init__(self, description: SourceDescription) -> None:
        self._schema = description.arrow_schema
        self._hive = set(description.hive_columns)
        self._path = description.path_column

    def add(self, table: pa.Table, file: SourceFile) -> pa.Table:
        """Return the rows of a file with the source's schema. Raises `ValueError` for a value that does not fit."""
        if not self._hive and self._path is None:
            return conform(table, self._schema)
        values = dict(hive_values(file.name) if file.values is None else file.values)
        if self._path:
            values[self._path] = file.name
        columns = []
        for field in self._schema:
            if field.name in self._hive or field.name == self._path:
                value = pa.scalar(values.get(field.name), pa.string()).cast(field.type)
                columns.append(pa.repeat(value, table.num_rows))
            else:
                columns.append(table[field.name] if field.name in table.column_names else None)
        filled = [
            pa.nulls(table.num_rows, field.type) if column is None else column
            for field, column in zip(self._schema, columns, strict=True)
        ]
        return conform(pa.table(filled, names=self._schema.names), self._schema)


def hive_values(name: str) -> dict[str, str | None]:
    """Return what the folders of a path say, in their order: `/data/year=2024/a.csv` says that `year` is 2024."""
    values: dict[str, str | None] = {}
    for folder in name.split("/")[:-1]:
        column, equals, value = folder.partition("=")
        if equals and column:
            values[unquote(column)] = None if value == _NO_VALUE else unquote(value)
    return values


def hive_schema(names: Sequence[str]) -> pa.Schema:
    """Return the columns that the folders of these files give: int64 where all are integers, else text.

    Raises `InvalidSource` if not all files have the same ones.
    """
    found = [hive_values(name) for name in names]
    for name, values in zip(names, found, strict=True):
        if values.keys() != found[0].keys():
            raise InvalidSource(
                f"the folders of {name} give the columns {_listed(values)}, those of {names[0]} {_listed(found[0])}.",
                hint="Name files with the same ones, or set `hive_columns` to false to read none from the folders.",
                file=name,
            )
    return pa.schema([(column, _kind([values[column] for values in found])) for column in found[0]])


def _listed(values: dict[str, str | None]) -> str:
    return ", ".join(values) or "none"


def _kind(values: list[str | None]) -> pa.DataType:
    if any(value is not None and not re.match(INTEGER, value) for value in values):
        return pa.string()
    kind = narrowest(pa.chunked_array([pa.array(values, pa.string())]))
    return kind if kind == pa.int64() else pa.string()


def with_file_columns(schema: pa.Schema, spec: FileSource, names: Sequence[str]) -> tuple[pa.Schema, tuple[str, ...]]:
    """Add the columns that folders give and the files lack, and the path column; return also the former's names.

    Raises `InvalidSource` for a path column whose name is taken.
    """
    hive = hive_schema(names) if spec.hive_columns else pa.schema([])
    added = [field for field in hive if field.name not in schema.names]
    schema = pa.schema([*schema, *added])
    if spec.path_column is not None:
        if spec.path_column in schema.names:
            raise InvalidSource(
                f"path_column: the source already has a column {spec.path_column!r}.", hint="Give another name."
            )
        schema = schema.append(pa.field(spec.path_column, pa.string()))
    return schema, tuple(field.name for field in added)
