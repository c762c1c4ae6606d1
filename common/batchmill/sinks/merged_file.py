"""Writes tables of one schema, one after another, into one file: memory holds a group of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

import pyarrow as pa
import pyarrow.parquet as pq

from batchmill.sinks import json_lines
from batchmill.sinks.parts import parquet_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from batchmill.sinks.parts import FormatName

GROUP_BYTES = 32 * 1024 * 1024  # of Arrow: of the tables that are written as one group


def write_merged(form: FormatName, path: str, schema: pa.Schema | None, tables: Iterable[pa.Table]) -> None:
    """Write a file. schema: of every table; None if there is none, which makes a file without columns."""
    match form:
        case "jsonl":
            with Path(path).open("wb") as file:
                for table in tables:
                    file.writelines(json_lines.encode(table))
        case "parquet":
            plain = without_dictionaries(schema or pa.schema([]))
            _write_columnar(pq.ParquetWriter(path, plain, **parquet_options(plain)), plain, tables)
        case "arrow":
            plain = without_dictionaries(schema or pa.schema([]))
            with pa.OSFile(path, "wb") as sink:
                _write_columnar(pa.ipc.new_file(sink, plain), plain, tables)
        case never:
            assert_never(never)


def _write_columnar(writer: Any, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    with writer:
        for group in _groups(tables, schema):
            writer.write_table(group)


def _groups(tables: Iterable[pa.Table], schema: pa.Schema) -> Iterator[pa.Table]:
    """Join small tables, since each that is written is a row group or a record batch: many small ones read slowly."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table if table.schema.equals(schema) else table.cast(schema))
        if sum(one.nbytes for one in held) >= GROUP_BYTES:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()


def without_dictionaries(schema: pa.Schema) -> pa.Schema:
    """Return the schema with the values of categories: each part has a dictionary, and a file would need one."""
    kinds = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in schema]
    return pa.schema(list(zip(schema.names, kinds, strict=True)))
