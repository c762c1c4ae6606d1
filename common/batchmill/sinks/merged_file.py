"""Writes tables of one schema, one after another, into one file: memory holds one of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, assert_never

import pyarrow as pa
import pyarrow.parquet as pq

from batchmill.sinks import json_lines

if TYPE_CHECKING:
    from collections.abc import Iterable

    from batchmill.sinks.parts import FormatName


def write_merged(form: FormatName, path: str, schema: pa.Schema | None, tables: Iterable[pa.Table]) -> None:
    """Write a file. schema: of every table; None if there is none, which makes a file without columns."""
    match form:
        case "jsonl":
            with Path(path).open("wb") as file:
                for table in tables:
                    file.writelines(json_lines.encode(table))
        case "parquet":
            plain = _without_dictionaries(schema or pa.schema([]))
            _write_columnar(pq.ParquetWriter(path, plain, compression="zstd"), plain, tables)
        case "arrow":
            plain = _without_dictionaries(schema or pa.schema([]))
            with pa.OSFile(path, "wb") as sink:
                _write_columnar(pa.ipc.new_file(sink, plain), plain, tables)
        case never:
            assert_never(never)


def _write_columnar(writer: Any, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    with writer:
        for table in tables:
            writer.write_table(table if table.schema.equals(schema) else table.cast(schema))


def _without_dictionaries(schema: pa.Schema) -> pa.Schema:
    """Return the schema with the values of categories: each part has a dictionary, and a file would need one."""
    kinds = [field.type.value_type if pa.types.is_dictionary(field.type) else field.type for field in schema]
    return pa.schema(list(zip(schema.names, kinds, strict=True)))
