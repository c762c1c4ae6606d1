"""Tables of Apache Iceberg: a metadata file names snapshots, and each its data files. `pyiceberg` reads them.

Which metadata file is current is known to the table's catalog, or is in `version-hint.text` in tables without one. The
newest file of the folder may be of a commit that failed, so it is not taken by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.errors import InvalidSource
from batchmill.sources.files.opening import open_file
from batchmill.sources.tables.table_snapshot import (
    TableFile,
    TableSnapshot,
    missing_package,
    nested_fields,
    not_read,
    reading_table,
    usual_schema,
)

if TYPE_CHECKING:
    from batchmill.storage.locations import Location, Locations

METADATA_ENDING = ".metadata.json"
METADATA_FOLDER = "metadata"
_HINT = "version-hint.text"
_MAX_HINT_BYTES = 4096
_KIND = "Iceberg"
_SCHEMES = {"s3a://": "s3://", "s3n://": "s3://"}
_ID = b"PARQUET:field_id"


def read_iceberg(table: Location, snapshot_id: int | None, locations: Locations) -> TableSnapshot:
    """Read which files a snapshot has; None: the current one. Raises `InvalidSource`.

    table: a metadata file, or the table's folder if it says which metadata file is current.
    """
    try:
        import pyiceberg  # noqa: F401  # whether it is there
    except ImportError:
        raise missing_package(f"an {_KIND}", table.uri, "iceberg") from None
    with reading_table(_KIND, table.uri):
        return _read(_current_metadata(table), snapshot_id, locations)


def field_ids(fields: pa.Schema | pa.StructType) -> dict[str, int]:
    """Return the ids of columns, and of what is nested in them, by path; without those that have none."""
    found: dict[str, int] = {}
    pending = [("", fields.field(place)) for place in range(len(fields) if isinstance(fields, pa.Schema) else 0)]
    while pending:
        prefix, one = pending.pop()
        path = f"{prefix}{one.name}"
        number = (one.metadata or {}).get(_ID)
        if number is not None:
            found[path] = int(number)
        pending += [(f"{path}.", child) for child in nested_fields(one.type)]
    return found


def _current_metadata(table: Location) -> Location:
    if table.path.endswith(METADATA_ENDING):
        return table
    folder = table.child(METADATA_FOLDER)
    hint = folder.child(_HINT)
    if hint.look_up().is_file:
        with open_file(hint) as file:
            version = file.read_at(min(file.size(), _MAX_HINT_BYTES), 0).decode().strip()
        if "/" not in version:
            name = version if version.endswith(METADATA_ENDING) else f"v{version}{METADATA_ENDING}"
            return folder.child(name)
    names = sorted(info.path.rpartition("/")[2] for info in folder.entries() if info.path.endswith(METADATA_ENDING))
    raise InvalidSource(
        f"{table.uri} is an Iceberg table, and its folder does not say which of its {len(names):,} metadata files is "
        "current.",
        hint=f"Give the source the metadata file that the catalog names (`metadata_location`), such as "
        f"{folder.child(names[-1]).uri}.",
        file=table.uri,
    )


def _read(metadata_file: Location, snapshot_id: int | None, locations: Locations) -> TableSnapshot:
    from pyiceberg.catalog.noop import NoopCatalog
    from pyiceberg.io.pyarrow import schema_to_pyarrow
    from pyiceberg.serializers import FromInputFile
    from pyiceberg.table import Table

    uri = metadata_file.uri
    io = _file_io(locations)
    metadata = FromInputFile.table_metadata(io.new_input(uri))
    table = Table(("table",), metadata, uri, io, NoopCatalog("none"))
    snapshot = table.current_snapshot() if snapshot_id is None else table.snapshot_by_id(snapshot_id)
    if snapshot is None and snapshot_id is not None:
        raise not_read(_KIND, uri, f"has no snapshot {snapshot_id}", "See its snapshots with a library for Iceberg.")
    if snapshot is None:
        return TableSnapshot(_KIND, uri, 0, usual_schema(schema_to_pyarrow(table.schema())), ())
    scan = table.scan(snapshot_id=snapshot_id)  # an earlier snapshot has the columns of its time
    columns = scan.projection()
    default = next((one.name for one in columns.fields if one.initial_default is not None), None)
    if default is not None:
        raise not_read(
            _KIND,
            uri,
            f"gives column {default!r} a value in files that lack it, which is not read",
            "Rewrite its rows to a table without such a column.",
        )
    schema = schema_to_pyarrow(columns)
    files = []
    for task in scan.plan_files():
        _refuse_file(task, uri)
        location = locations.resolve(_plain(task.file.file_path))
        files.append(TableFile(location, _partition_values(table, columns, schema, task.file)))
    ids = field_ids(schema)
    return TableSnapshot(_KIND, uri, snapshot.snapshot_id, usual_schema(schema), tuple(files), ids)


def _refuse_file(task: Any, uri: str) -> None:
    if task.delete_files:
        raise not_read(
            _KIND,
            uri,
            "has delete files: deleted rows that are still in its data files",
            "Rewrite these files: CALL system.rewrite_data_files with 'delete-file-threshold' 1 in Spark.",
        )
    if str(task.file.file_format.value).upper() != "PARQUET":
        raise not_read(_KIND, uri, f"has files of the format {task.file.file_format.value}", "Rewrite them as Parquet.")


def _partition_values(table: Any, columns: Any, schema: pa.Schema, file: Any) -> dict[str, pa.Scalar]:
    """Return the columns whose values the partition of a file gives, of those with the transform `identity`."""
    from pyiceberg.transforms import IdentityTransform

    values: dict[str, pa.Scalar] = {}
    for place, field in enumerate(table.specs()[file.spec_id].fields):
        name = columns.find_column_name(field.source_id)
        if isinstance(field.transform, IdentityTransform) and name in schema.names:
            kind = schema.field(name).type
            raw = file.partition[place]
            values[name] = pa.scalar(raw, _raw_type(kind, raw)).cast(kind)
    return values


def _raw_type(kind: pa.DataType, raw: Any) -> pa.DataType | None:
    """Return the type in which Iceberg stores a value of a partition: days and microseconds are integers."""
    if isinstance(raw, int) and (pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind)):
        return pa.int32() if pa.types.is_date(kind) else pa.int64()
    return None if raw is not None else kind


def _plain(path: str) -> str:
    """Return a path of Iceberg's metadata as a URI of this service."""
    for scheme, ours in _SCHEMES.items():
        if path.startswith(scheme):
            return ours + path.removeprefix(scheme)
    if path.startswith("file:/") and not path.startswith("file://"):
        return path.removeprefix("file:")
    return path.removeprefix("file://") if path.startswith("file:///") else path


def _file_io(locations: Locations) -> Any:
    """Make what pyiceberg reads files with: it opens no file outside the roots, and writes none."""
    from pyiceberg.io import FileIO, InputFile

    class RootedFile(InputFile):
        def __init__(self, place: Location) -> None:
            super().__init__(place.uri)
            self._place = place

        def __len__(self) -> int:
            return int(self._place.look_up().size or 0)

        def exists(self) -> bool:
            return bool(self._place.look_up().is_file)

        def open(self, seekable: bool = True) -> Any:  # noqa: ARG002  # all are
            return open_file(self._place)

    class RootedFiles(FileIO):
        def new_input(self, location: str) -> RootedFile:
            return RootedFile(locations.resolve(_plain(location)))

        def new_output(self, location: str) -> Any:
            raise NotImplementedError(location)

        def delete(self, location: Any) -> None:
            raise NotImplementedError(location)

    return RootedFiles()
