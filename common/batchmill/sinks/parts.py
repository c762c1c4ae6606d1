"""The formats of part files: Arrow IPC, Parquet, JSON Lines. A table reads back as it was written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from batchmill.columns import decode_schema
from batchmill.error_text import first_line
from batchmill.errors import InvalidOutput
from batchmill.sinks import json_lines
from batchmill.storage.blobs import write_arrow

if TYPE_CHECKING:
    from collections.abc import Callable

FormatName = Literal["arrow", "parquet", "jsonl"]
DICTIONARY_SAMPLE_ROWS = 4096
MAX_DISTINCT_SHARE = 0.9  # of the rows of a sample, for a column that gets a dictionary


class PartFormat(ABC):
    """How a table is written into a file, and read from its bytes."""

    name: ClassVar[FormatName]  # also the ending of its files
    has_schema: ClassVar[bool] = True  # whether a file holds the Arrow schema of its rows

    @abstractmethod
    def encode(self, path: str, table: pa.Table) -> None:
        """Write a table into a new file. Raises `InvalidOutput` for one that it cannot represent, and `OSError`."""

    @abstractmethod
    def decode(self, data: pa.Buffer, schema: pa.Schema) -> pa.Table:
        """Read the table in a file's bytes. schema: its own, unless `has_schema`. Raises `pa.ArrowException`."""

    def schema_in(self, data: pa.Buffer) -> pa.Schema:
        """Read the schema in a file's bytes, if `has_schema`. Raises `pa.ArrowException`."""
        return self.decode(data, pa.schema([])).schema

    def check(self, schema: pa.Schema) -> None:
        """Raise `InvalidOutput`, naming the column, for a type that this format cannot represent."""
        for field in schema:
            if not self.holds(field.type):
                raise _no_form(self.name, field.name, field.type)

    def holds(self, kind: pa.DataType) -> bool:  # noqa: ARG002  # a format may hold every type
        """Return whether this format can represent a type that is carried."""
        return True


class ArrowParts(PartFormat):
    """Arrow IPC files, uncompressed: written and read at the speed of the disk."""

    name = "arrow"

    def encode(self, path: str, table: pa.Table) -> None:
        """See `PartFormat`. Every table can be represented."""
        write_arrow(path, table)

    def decode(self, data: pa.Buffer, schema: pa.Schema) -> pa.Table:  # noqa: ARG002  # a file has its own
        """See `PartFormat`. The table is checked, so that no later access reads past a buffer."""
        table = pa.ipc.open_file(data).read_all()
        table.validate()
        return table

    def schema_in(self, data: pa.Buffer) -> pa.Schema:
        """See `PartFormat`."""
        return pa.ipc.open_file(data).schema


class ParquetParts(PartFormat):
    """Parquet, zstd, with the Arrow schema, so that types that Parquet does not have are restored too."""

    name = "parquet"

    def holds(self, kind: pa.DataType) -> bool:
        """See `PartFormat`. A struct without fields has no columns to be stored in."""
        return not _has_empty_struct(kind)

    def encode(self, path: str, table: pa.Table) -> None:
        """See `PartFormat`."""
        _representing(self.name, lambda: _write_parquet(path, table))

    def decode(self, data: pa.Buffer, schema: pa.Schema) -> pa.Table:  # noqa: ARG002  # a file has its own
        """See `PartFormat`. Types that Parquet lacks are restored from the stored Arrow schema."""
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            return _with_schema(file.read(), _stored_schema(file))

    def schema_in(self, data: pa.Buffer) -> pa.Schema:
        """See `PartFormat`."""
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            return _stored_schema(file)


class JsonLinesParts(PartFormat):
    """JSON Lines, UTF-8."""

    name = "jsonl"
    has_schema = False

    def holds(self, kind: pa.DataType) -> bool:
        """See `PartFormat`."""
        try:
            json_lines.check(pa.schema([("", kind)]))
        except pa.ArrowException:
            return False
        return True

    def encode(self, path: str, table: pa.Table) -> None:
        """See `PartFormat`."""
        _representing(self.name, lambda: _write_lines(path, table))

    def decode(self, data: pa.Buffer, schema: pa.Schema) -> pa.Table:
        """See `PartFormat`."""
        return json_lines.decode(data, schema)


def part_format(name: FormatName) -> PartFormat:
    """Return the format of that name."""
    kinds: dict[FormatName, type[PartFormat]] = {"arrow": ArrowParts, "parquet": ParquetParts, "jsonl": JsonLinesParts}
    return kinds[name]()


def parquet_options(schema: pa.Schema, rows: pa.Table | None = None) -> dict[str, Any]:
    """Return how Parquet is written. Columns of floats get no dictionary: embeddings do not repeat.

    rows: what is written, if it is known; columns that do not repeat in the first of them get none either, since a
    dictionary that is given up at its limit takes a third of the time of writing.
    """
    repeating = [field.name for field in schema if not _is_floating(field.type)]
    if rows is not None:
        first = rows.slice(0, DICTIONARY_SAMPLE_ROWS)
        repeating = [name for name in repeating if _repeats(first.column(name))]
    return {"compression": "zstd", "use_dictionary": repeating}


def _repeats(values: pa.ChunkedArray) -> bool:
    """Whether a dictionary may save space: few are alike only by chance. True for types that cannot be compared."""
    try:
        distinct = pc.count_distinct(values, mode="all").as_py()
    except pa.ArrowNotImplementedError:
        return True
    return bool(distinct <= len(values) * MAX_DISTINCT_SHARE)


def to_json_lines(table: pa.Table) -> bytes:
    """Encode a table as JSON Lines. Raises `InvalidOutput` for a type or a value that JSON cannot represent."""
    lines: list[pa.Buffer] = []
    _representing("jsonl", lambda: lines.extend(json_lines.encode(table)))
    return b"".join(lines)


def _has_empty_struct(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _has_empty_struct(kind.storage_type)
    if pa.types.is_struct(kind) and kind.num_fields == 0:
        return True
    return pa.types.is_nested(kind) and any(
        _has_empty_struct(kind.field(place).type) for place in range(kind.num_fields)
    )


def _no_form(form: str, column: str, kind: pa.DataType) -> InvalidOutput:
    return InvalidOutput(
        f"column {column!r} is {kind}, which {form} cannot hold.",
        hint="Leave the column out with `carry`, convert it, or ask for another output format.",
        format=form,
        column=column,
    )


def _write_parquet(path: str, table: pa.Table) -> None:
    pq.write_table(table, path, **parquet_options(table.schema, table))


def _write_lines(path: str, table: pa.Table) -> None:
    with Path(path).open("wb") as file:
        file.writelines(json_lines.encode(table))


def _is_floating(type_: pa.DataType) -> bool:
    while pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        type_ = type_.value_type
    return bool(pa.types.is_floating(type_))


def _stored_schema(file: pq.ParquetFile) -> pa.Schema:
    encoded = (file.metadata.metadata or {}).get(b"ARROW:schema")
    return decode_schema(encoded) if encoded else file.schema_arrow


def _with_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Give the columns the types that Parquet could not keep; a cast of the others would be no more than a risk."""
    columns = [
        column if column.type == field.type else column.cast(field.type)
        for column, field in zip(table.columns, schema, strict=True)
    ]
    return pa.table(columns, schema=schema)


def _representing(form: str, write: Callable[[], Any]) -> None:
    """Write a file; a table that the format cannot represent is an `InvalidOutput`."""
    try:
        write()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise InvalidOutput(
            f"the results cannot be written as {form}: {first_line(error)}.",
            hint="Let the operator return another type or value for it, or ask for another output format.",
            format=form,
        ) from error
