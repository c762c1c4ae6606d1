"""Validates tables of Delta Lake and Iceberg: from then on, a job reads the files of one version of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.columns import encode_schema, widen_types
from batchmill.errors import InvalidSource
from batchmill.sources.describing.describe_columnar import carried_columns, read_footers
from batchmill.sources.describing.describe_files import each_of
from batchmill.sources.description import SourceDescription, SourceFile
from batchmill.sources.file_columns import with_file_columns
from batchmill.sources.files.folders import DELTA, ICEBERG, table_kind
from batchmill.sources.files.listing import MAX_FILES, mtime_s, natural_key
from batchmill.sources.files.opening import reading, real_location
from batchmill.sources.schemas import plain, refuse_doubles, select
from batchmill.sources.tables.delta import read_delta
from batchmill.sources.tables.iceberg import METADATA_ENDING, field_ids, read_iceberg
from batchmill.sources.tables.table_snapshot import usual_schema

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyarrow import fs

    from batchmill.jobs.files import FileSource
    from batchmill.sources.describing.describe_columnar import Footer
    from batchmill.sources.tables.table_snapshot import TableFile, TableSnapshot
    from batchmill.storage.locations import Location, Locations


def find_table(spec: FileSource, locations: Locations) -> TableSnapshot | None:
    """Return the table that a source names, at the version it asks for; None for files. Raises `InvalidSource`."""
    path = spec.path[0] if isinstance(spec.path, list) and len(spec.path) == 1 else spec.path
    if not isinstance(path, str) or spec.format not in (None, "parquet"):
        return None
    location = locations.resolve(path)
    with reading(location):
        kind = ICEBERG if path.endswith(METADATA_ENDING) else table_kind(location, locations)
    if kind == DELTA:
        return read_delta(location, spec.table_version, locations)
    return read_iceberg(location, spec.table_version, locations) if kind == ICEBERG else None


def describe_table(spec: FileSource, snapshot: TableSnapshot, locations: Locations) -> SourceDescription:
    """Read the footers of a table's files, and check their columns. Raises `InvalidSource` as `describe` does."""
    tabled = sorted(snapshot.files, key=lambda file: natural_key(file.location.path))
    if len(tabled) > MAX_FILES:
        raise InvalidSource(
            f"the table {snapshot.uri} has {len(tabled):,} files, at most {MAX_FILES:,} are read.",
            hint="Rewrite its files as larger ones.",
            file=snapshot.uri,
        )
    places = [real_location(file.location, locations) for file in tabled]
    infos = list(each_of(_look_up, places))
    footers = read_footers("parquet", places, keeps_bad_rows=spec.on_bad_line == "dead")
    schema = plain(snapshot.schema) if spec.columns is None else _selected(spec, snapshot)
    schema = usual_schema(carried_columns(schema, snapshot.uri))
    refuse_doubles(schema.names, snapshot.uri)
    lacking = {
        name
        for place, footer in zip(places, footers, strict=True)
        for name in _lacking(snapshot, schema, place, footer)
    }
    complete, _ = with_file_columns(schema, spec.model_copy(update={"hive_columns": False}), [])
    complete = select(complete, spec.columns, snapshot.uri)
    in_log = {name for file in tabled for name in file.values}
    from_log = tuple(name for name in complete.names if name in in_log & lacking)
    files = [
        SourceFile(
            name=file.location.uri,
            size=info.size,
            mtime_s=mtime_s(info),
            rows=footer.rows,
            fault=footer.fault,
            is_readable=not footer.fault,
            values={name: _text(file, name, complete.field(name).type, snapshot) for name in from_log},
        )
        for file, info, footer in zip(tabled, infos, footers, strict=True)
    ]
    return SourceDescription(
        format="parquet",
        where="files",
        files=tuple(files),
        schema_base64=encode_schema(complete),
        selected=True,  # files may have columns that the table has no longer
        hive_columns=from_log,
        path_column=spec.path_column if spec.path_column in complete.names else None,
        keeps_bad_rows=spec.on_bad_line == "dead",
        table_version=snapshot.version,
    )


def _selected(spec: FileSource, snapshot: TableSnapshot) -> pa.Schema:
    """Return the table's columns that are asked for; the path column is none of them."""
    wanted = [column for column in spec.columns or () if column != spec.path_column]
    return select(plain(snapshot.schema), wanted, snapshot.uri)


def _look_up(place: Location) -> fs.FileInfo:
    with reading(place):
        info = place.look_up()
        if not info.is_file:
            raise FileNotFoundError(place.path)
        return info


def _lacking(snapshot: TableSnapshot, schema: pa.Schema, place: Location, footer: Footer) -> Sequence[str]:
    """Return the columns that a file lacks. Raises `InvalidSource` for one that it has in another form."""
    if footer.fault:
        return ()
    if snapshot.field_ids is not None:
        _check_ids(snapshot.field_ids, field_ids(footer.schema), place.uri)
    found = usual_schema(carried_columns(plain(footer.schema), place.uri, only=schema.names))
    for name in found.names:
        expected, kind = schema.field(name).type, found.field(name).type
        if widen_types(expected, kind) != expected and not _is_utc_written_without_zone(expected, kind):
            raise InvalidSource(
                f"column {name!r} is {kind} in {place.uri}, and {expected} in its table.",
                hint="Rewrite the file with the table's types, or name the columns to read with `columns`.",
                file=place.uri,
                column=name,
            )
    return [name for name in schema.names if name not in found.names]


def _check_ids(expected: dict[str, int], found: dict[str, int], uri: str) -> None:
    """Raise `InvalidSource` unless columns of one id have one name in the file and in the table."""
    names = {number: path for path, number in expected.items()}
    for path, number in found.items():
        if expected.get(path, number) != number or names.get(number, path) != path:
            raise InvalidSource(
                f"{uri} was written before a column of its table was renamed or replaced: {path!r}.",
                hint="Rewrite the table's files: CALL system.rewrite_data_files with 'rewrite-all' in Spark.",
                file=uri,
                column=path,
            )
    if expected and not found:
        raise InvalidSource(
            f"{uri} has no ids of columns, by which its table knows them.",
            hint="Rewrite the table's files: CALL system.rewrite_data_files with 'rewrite-all' in Spark.",
            file=uri,
        )


def _is_utc_written_without_zone(expected: pa.DataType, found: pa.DataType) -> bool:
    """Whether a time of a table, which is in UTC, is in the file's old form, which has no zone."""
    return pa.types.is_timestamp(expected) and pa.types.is_timestamp(found) and bool(expected.tz) and found.tz is None


def _text(file: TableFile, name: str, kind: pa.DataType, snapshot: TableSnapshot) -> str | None:
    """Return the value of a partition column as text, from which reading makes the same value again."""
    if name not in file.values:
        raise InvalidSource(
            f"column {name!r} is in {file.location.uri}, and in other files of its table only as a partition.",
            hint="Rewrite the table's files: CALL system.rewrite_data_files with 'rewrite-all' in Spark.",
            file=file.location.uri,
            column=name,
        )
    value = file.values[name]
    try:
        text: str | None = value.cast(kind).cast(pa.string()).as_py()
        if pa.scalar(text, pa.string()).cast(kind).equals(value.cast(kind)):
            return text
    except pa.ArrowException:
        pass
    raise InvalidSource(
        f"the table {snapshot.uri} is partitioned by column {name!r} of the type {kind}, which is not read.",
        hint="Name the columns to read with `columns`.",
        file=snapshot.uri,
        column=name,
    )
