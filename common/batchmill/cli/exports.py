"""Write results to files: page by page, under a temporary name until they are complete.

Arrow and Parquet files have one schema, but a page of results may have a wider one than those before it (a column
that was all null so far). Then a new segment begins, and the segments are joined at the end; memory holds one page
and about `HELD_BYTES`.
"""

from __future__ import annotations

import base64
import json
from contextlib import closing, contextmanager
from functools import reduce
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from batchmill.columns import TypeConflictError, values_of, widen_schemas, widen_table
from batchmill.errors import InvalidOutput, StorageError
from batchmill.sinks import part_format

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchmill.client.results.pages import ResultPage

HELD_BYTES = 32 * 1024 * 1024


class Export(Protocol):
    """A file that is being written."""

    @property
    def content_type(self) -> Literal["arrow", "jsonl"]:
        """The format in which it needs pages."""

    def write(self, page: ResultPage) -> None:
        """Add the rows of a page."""

    def finish(self, path: Path) -> None:
        """Complete the file and move it to `path`."""

    def close(self) -> None:
        """Close open files."""


class LinesFile:
    """JSON Lines, as the service writes them."""

    content_type: Literal["jsonl"] = "jsonl"

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lines"
        self._file = self._path.open("wb")

    def write(self, page: ResultPage) -> None:
        """Add the rows of a page."""
        self._file.write(page.lines())

    def finish(self, path: Path) -> None:
        """Complete the file and move it to `path`."""
        self.close()
        self._path.replace(path)

    def close(self) -> None:
        """Close open files."""
        self._file.close()


class ColumnarFile:
    """Arrow or Parquet."""

    content_type: Literal["arrow"] = "arrow"

    def __init__(self, folder: Path, kind: Literal["arrow", "parquet"]) -> None:
        self._folder = folder
        self._kind = kind
        self._segments: list[Path] = []
        self._schema: pa.Schema | None = None
        self._writer: Any = None
        self._held: list[pa.Table] = []

    def write(self, page: ResultPage) -> None:
        """Add the rows of a page."""
        table = _without_dictionaries(page.table())
        if not table.num_columns:
            return
        part_format(self._kind).check(table.schema)
        if self._schema is None or not self._schema.equals(table.schema):
            self._begin(table.schema)
        self._held.append(table)
        if sum(held.nbytes for held in self._held) >= HELD_BYTES:
            self._flush()

    def finish(self, path: Path) -> None:
        """Complete the file and move it to `path`."""
        if self._schema is None:
            self._begin(pa.schema([]))
        self._end()
        if len(self._segments) > 1:
            self._join()
        self._segments[-1].replace(path)

    def close(self) -> None:
        """Close open files."""
        if self._writer is not None:
            self._writer.close()

    def _begin(self, schema: pa.Schema) -> None:
        self._end()
        self._schema = schema
        self._segments.append(self._folder / f"segment-{len(self._segments)}")
        if self._kind == "parquet":
            self._writer = pq.ParquetWriter(self._segments[-1], schema, compression="zstd")
        else:
            self._writer = pa.ipc.new_file(str(self._segments[-1]), schema)

    def _flush(self) -> None:
        if self._held:
            self._writer.write_table(pa.concat_tables(self._held))
            self._held = []

    def _end(self) -> None:
        if self._writer is not None:
            self._flush()
            self._writer.close()
            self._writer = None

    def _join(self) -> None:
        segments = list(self._segments)
        schemas = [schema for segment in segments for schema, _ in self._read(segment, schema_only=True)]
        try:
            merged = reduce(widen_schemas, schemas)
        except TypeConflictError as conflict:
            raise InvalidOutput(
                f"the results have no one schema: {conflict}.",
                hint="Write them to a .jsonl file, or let the operator return one type for the column.",
                column=conflict.column,
            ) from conflict
        self._begin(merged)
        for segment in segments:
            for _, table in self._read(segment):
                self._held.append(table if table is None else widen_table(table, merged))
                self._flush()
            segment.unlink()
        self._end()

    def _read(self, path: Path, *, schema_only: bool = False) -> Iterator[tuple[pa.Schema, pa.Table | None]]:
        if self._kind == "parquet":
            with pq.ParquetFile(path) as file:
                groups = range(1 if schema_only else file.num_row_groups)
                for group in groups:
                    yield file.schema_arrow, None if schema_only else file.read_row_group(group)
        else:
            with pa.memory_map(str(path)) as data, pa.ipc.open_file(data) as file:
                groups = range(1 if schema_only else file.num_record_batches)
                for group in groups:
                    batch = None if schema_only else pa.Table.from_batches([file.get_batch(group)])
                    yield file.schema, batch


class CsvFile:
    """CSV with a header; values without a CSV equivalent are written as JSON text, bytes as base64."""

    content_type: Literal["arrow"] = "arrow"

    def __init__(self, folder: Path) -> None:
        self._path = folder / "table"
        self._file = self._path.open("wb")
        self._names: list[str] | None = None

    def write(self, page: ResultPage) -> None:
        """Add the rows of a page."""
        table = page.table()
        if not table.num_columns:
            return
        if self._names not in (None, table.column_names):
            raise InvalidOutput(
                f"the results change their columns from {self._names} to {table.column_names}, which CSV cannot hold.",
                hint="Write them to a .parquet or .jsonl file.",
            )
        flat = _without_dictionaries(pa.table([_flat(column) for column in table.columns], names=table.column_names))
        pc.write_csv(flat, self._file, pc.WriteOptions(include_header=self._names is None))
        self._names = table.column_names

    def finish(self, path: Path) -> None:
        """Complete the file and move it to `path`."""
        self.close()
        self._path.replace(path)

    def close(self) -> None:
        """Close open files."""
        self._file.close()


def _without_dictionaries(table: pa.Table) -> pa.Table:
    """The table with the values of its categories: pages have dictionaries of their own, and a file would need one."""
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(place, field.name, table.column(place).cast(field.type.value_type))
    return table


def _flat(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    kind = column.type
    if pa.types.is_nested(kind):
        texts = [None if value is None else json.dumps(value, default=_json_value) for value in values_of(column)]
        return pa.chunked_array([pa.array(texts, pa.string())])
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        codes = [None if value is None else base64.b64encode(value).decode() for value in column.to_pylist()]
        return pa.chunked_array([pa.array(codes, pa.string())])
    if pa.types.is_float16(kind) or pa.types.is_duration(kind):
        return column.cast(pa.float32() if pa.types.is_float16(kind) else pa.int64())
    return column


def _json_value(value: object) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


_ENDINGS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


def check_path(path: Path, kind: str | None = None) -> None:
    """Raise `InvalidOutput` for a path that results cannot be written to. kind: a format, whatever the ending is."""
    if kind is None and path.suffix.lower() not in _ENDINGS:
        raise InvalidOutput(
            f"{str(path)!r}: the ending {path.suffix!r} is not a known format.",
            hint=f"Expected one of: {', '.join(_ENDINGS)}.",
        )
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else "is in a folder that does not exist"
        raise InvalidOutput(f"{str(path)!r} {what}; expected the path of a file to write.")


@contextmanager
def open_export(path: Path, kind: str | None = None) -> Iterator[Export]:
    """Open a file of results for writing; remove it unless it is finished.

    kind: its format. None: by the ending of its name.

    Raises `StorageError` when it cannot be written.
    """
    import tempfile

    try:
        with (
            tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder,
            closing(_make(kind or _ENDINGS[path.suffix.lower()], path.parent / folder)) as export,
        ):
            yield export
    except OSError as error:
        raise StorageError(f"{str(path)!r} cannot be written: {error.strerror or error}.", path=str(path)) from error


def _make(kind: str, where: Path) -> Export:
    if kind == "jsonl":
        return LinesFile(where)
    if kind == "csv":
        return CsvFile(where)
    return ColumnarFile(where, "parquet" if kind == "parquet" else "arrow")
