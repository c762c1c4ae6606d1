"""The formats of part files: Arrow IPC, Parquet, JSON Lines. A part reads back as the table that was written."""

from __future__ import annotations

import base64
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from batchmill.errors import BatchmillError, InvalidOutput, NotFound, StorageError
from batchmill.sinks import json_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.storage.blobs import BlobStore

FormatName = Literal["arrow", "parquet", "jsonl"]


class PartFormat(ABC):
    """How a table is written into files of a blob store and read back."""

    name: ClassVar[FormatName]  # also the ending of its files

    @abstractmethod
    def write(self, store: BlobStore, name: str, table: pa.Table) -> int:
        """Write a part, atomically. Returns its size in bytes.

        Raises `InvalidOutput` for a table that this format cannot represent, `StorageError` if writing fails.
        """

    @abstractmethod
    def read(self, store: BlobStore, name: str) -> pa.Table:
        """Read a part. Raises `NotFound` or `StorageError`."""

    @abstractmethod
    def read_schema(self, store: BlobStore, name: str) -> pa.Schema:
        """Read the schema of a part. Raises `NotFound` or `StorageError`."""

    def check(self, schema: pa.Schema) -> None:
        """Raise `InvalidOutput`, naming the column, for a type that this format cannot represent."""
        for field in schema:
            if not self.holds(field.type):
                raise _no_form(self.name, field.name, field.type)

    def holds(self, kind: pa.DataType) -> bool:  # noqa: ARG002  # a format may hold every type
        """Return whether this format can represent a type that is carried."""
        return True

    def files(self, name: str) -> tuple[str, ...]:
        """Return the names of the blobs that make up a part."""
        return (name,)


class ArrowParts(PartFormat):
    """Arrow IPC files, uncompressed: written and read at the speed of the disk."""

    name = "arrow"

    def write(self, store: BlobStore, name: str, table: pa.Table) -> int:
        """See `PartFormat`. Every table can be represented."""
        return store.put_table(name, table)

    def read(self, store: BlobStore, name: str) -> pa.Table:
        """See `PartFormat`. The part is read into memory."""
        return store.read_table(name)

    def read_schema(self, store: BlobStore, name: str) -> pa.Schema:
        """See `PartFormat`."""
        try:
            return pa.ipc.open_file(store.get(name)).schema
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(store, name, error) from error


class ParquetParts(PartFormat):
    """Parquet, zstd, with the Arrow schema, so that types that Parquet does not have are restored too."""

    name = "parquet"

    def holds(self, kind: pa.DataType) -> bool:
        """See `PartFormat`. A struct without fields has no columns to be stored in."""
        return not _has_empty_struct(kind)

    def write(self, store: BlobStore, name: str, table: pa.Table) -> int:
        """See `PartFormat`. Columns of floats get no dictionary: embeddings do not repeat."""
        return store.put_file(name, lambda path: _representing(self.name, lambda: _write_parquet(path, table)))

    def read(self, store: BlobStore, name: str) -> pa.Table:
        """See `PartFormat`. Types that Parquet lacks are restored from the stored Arrow schema."""
        buffer = store.get(name)
        try:
            with pq.ParquetFile(pa.BufferReader(buffer)) as file:
                return _with_schema(file.read(), _stored_schema(file))
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(store, name, error) from error

    def read_schema(self, store: BlobStore, name: str) -> pa.Schema:
        """See `PartFormat`."""
        buffer = store.get(name)
        try:
            with pq.ParquetFile(pa.BufferReader(buffer)) as file:
                return _stored_schema(file)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(store, name, error) from error


class JsonLinesParts(PartFormat):
    """JSON Lines, UTF-8. The Arrow schema of a part is in a folder beside it, `_schemas`, which readers skip."""

    name = "jsonl"

    def holds(self, kind: pa.DataType) -> bool:
        """See `PartFormat`."""
        try:
            json_lines.check(pa.schema([("", kind)]))
        except pa.ArrowException:
            return False
        return True

    def write(self, store: BlobStore, name: str, table: pa.Table) -> int:
        """See `PartFormat`. The schema is written first, so that no part is without one."""
        store.put(_schema_name(name), table.schema.serialize())
        try:
            return store.put_file(name, lambda path: _representing(self.name, lambda: _write_lines(path, table)))
        except BatchmillError:
            store.delete(_schema_name(name))
            raise

    def read(self, store: BlobStore, name: str) -> pa.Table:
        """See `PartFormat`. The schema is read from the file beside the part."""
        data = store.get(name)
        try:
            schema = pa.ipc.read_schema(store.get(_schema_name(name)))
            return json_lines.decode(data, schema)
        except (OSError, ValueError, pa.ArrowException, NotFound) as error:
            raise _unreadable(store, name, error) from error

    def read_schema(self, store: BlobStore, name: str) -> pa.Schema:
        """See `PartFormat`."""
        try:
            return pa.ipc.read_schema(store.get(_schema_name(name)))
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(store, name, error) from error

    def files(self, name: str) -> tuple[str, ...]:
        """Return the names of the lines and of their schema."""
        return (name, _schema_name(name))


def part_format(name: FormatName) -> PartFormat:
    """Return the format of that name."""
    kinds: dict[FormatName, type[PartFormat]] = {"arrow": ArrowParts, "parquet": ParquetParts, "jsonl": JsonLinesParts}
    return kinds[name]()


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


def _schema_name(name: str) -> str:
    return f"_schemas/{name.removesuffix('.jsonl')}.arrow"


def _write_parquet(path: str, table: pa.Table) -> None:
    repeating = [field.name for field in table.schema if not _is_floating(field.type)]
    pq.write_table(table, path, compression="zstd", use_dictionary=repeating)


def _write_lines(path: str, table: pa.Table) -> None:
    with Path(path).open("wb") as file:
        file.writelines(json_lines.encode(table))


def _is_floating(type_: pa.DataType) -> bool:
    while pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        type_ = type_.value_type
    return bool(pa.types.is_floating(type_))


def _stored_schema(file: pq.ParquetFile) -> pa.Schema:
    encoded = (file.metadata.metadata or {}).get(b"ARROW:schema")
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(encoded))) if encoded else file.schema_arrow


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
            f"the results cannot be written as {form}: {str(error).splitlines()[0]}.",
            hint="Let the operator return another type or value for it, or ask for another output format.",
            format=form,
        ) from error


def _unreadable(store: BlobStore, name: str, error: Exception) -> StorageError:
    place = store.location(name).uri
    cause = (str(error).splitlines() or [type(error).__name__])[0]
    return StorageError(f"could not read {place}: {cause.rstrip('.')}.", hint="It was changed or damaged.", path=place)
