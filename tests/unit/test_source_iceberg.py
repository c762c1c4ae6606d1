"""Tables of Iceberg, made by their own library: the current rows of a version, or a refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog.memory import InMemoryCatalog
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestWriterV2,
    write_manifest_list,
)
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.transforms import IdentityTransform
from pyiceberg.typedef import Record
from pyiceberg.types import IntegerType, LongType, NestedField, StringType

from batchmill.storage.locations import Locations
from support.source_tables import look, pairs, read, refusal, rows_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[InMemoryCatalog]:
    found = InMemoryCatalog("test", warehouse=f"file://{tmp_path}/house")
    found.create_namespace("n")
    yield found
    found.engine.dispose()


TABLE = pa.table({"id": pa.array([1, 2, 3], pa.int64()), "name": ["a", "b", "c"]})


def snapshot_id_of(table: Any) -> int:
    return int(table.current_snapshot().snapshot_id)


def metadata_file(table: Any) -> str:
    return str(table.metadata_location).removeprefix("file://")


def test_the_current_rows_of_an_iceberg_table_are_read_and_stay_those(catalog: InMemoryCatalog, tmp_path: Path) -> None:
    table = catalog.create_table("n.t", TABLE.schema)
    table.append(TABLE)
    first = snapshot_id_of(table)
    table.append(pa.table({"id": pa.array([4], pa.int64()), "name": ["d"]}))
    table.delete("id = 2")
    description = look(metadata_file(table))
    assert description.table_version == snapshot_id_of(table)
    expected = [(1, "a"), (3, "c"), (4, "d")]
    assert pairs(rows_of(description, tmp_path)) == expected
    assert look(f"file://{metadata_file(table)}").fingerprint == description.fingerprint
    table.overwrite(TABLE.slice(0, 1))
    assert pairs(rows_of(description, tmp_path)) == expected
    assert pairs(read(metadata_file(table), tmp_path)) == [(1, "a")]
    assert pairs(read(metadata_file(table), tmp_path, table_version=first)) == [(1, "a"), (2, "b"), (3, "c")]
    assert "has no snapshot 77" in refusal(metadata_file(table), table_version=77).message


def test_a_folder_is_read_only_if_it_says_which_metadata_is_current(catalog: InMemoryCatalog, tmp_path: Path) -> None:
    table = catalog.create_table("n.t", TABLE.schema)
    table.append(TABLE)
    folder = tmp_path / "house" / "n" / "t"
    error = refusal(folder)
    assert "does not say which of its 2 metadata files is current" in error.message
    assert metadata_file(table) in error.hint
    (folder / "metadata" / "version-hint.text").write_text(metadata_file(table).rpartition("/")[2])
    assert pairs(read(folder, tmp_path)) == [(1, "a"), (2, "b"), (3, "c")]


def test_partitions_of_an_iceberg_table_are_read(catalog: InMemoryCatalog, tmp_path: Path) -> None:
    rows = pa.table(
        {
            "day": pa.array([19_000, 19_001, None], pa.date32()),
            "at": pa.array([1, 2, 3], pa.timestamp("us", "UTC")),
            "name": ["a/b", None, "c"],
        }
    )
    table = catalog.create_table("n.t", rows.schema)
    with table.update_spec() as update:
        update.add_field("day", IdentityTransform())
        update.add_field("name", IdentityTransform())
    table.append(rows)
    assert len(look(metadata_file(table)).files) == 3
    assert read(metadata_file(table), tmp_path) == sorted(rows.to_pylist(), key=str)


def test_files_that_lack_a_partition_column_get_it_from_the_table(catalog: InMemoryCatalog, tmp_path: Path) -> None:
    schema = Schema(
        NestedField(1, "id", LongType()), NestedField(2, "day", StringType()), NestedField(3, "n", IntegerType())
    )
    spec = PartitionSpec(PartitionField(2, 1000, IdentityTransform(), "day"))
    table = catalog.create_table("n.t", schema, partition_spec=spec)
    rows = {"id": pa.array([1], pa.int64()), "day": ["monday"], "n": pa.array([5], pa.int32())}
    table.append(pa.table(rows))
    (file,) = (tmp_path / "house").rglob("*.parquet")
    pq.write_table(pq.ParquetFile(file).read().drop_columns(["day"]), file)
    assert read(metadata_file(table), tmp_path) == [{"id": 1, "day": "monday", "n": 5}]


def test_a_column_that_is_only_a_partition_in_some_files_is_refused(catalog: InMemoryCatalog, tmp_path: Path) -> None:
    table = catalog.create_table("n.t", TABLE.schema)
    table.append(TABLE)
    before = set((tmp_path / "house").rglob("*.parquet"))
    with table.update_spec() as update:
        update.add_field("name", IdentityTransform())
    table.append(TABLE.slice(0, 1))
    assert len(read(metadata_file(table), tmp_path)) == 4
    (file,) = set((tmp_path / "house").rglob("*.parquet")) - before
    pq.write_table(pq.ParquetFile(file).read().drop_columns(["name"]), file)
    assert "only as a partition" in refusal(metadata_file(table)).message


def test_columns_with_a_default_are_refused(catalog: InMemoryCatalog) -> None:
    table = catalog.create_table("n.t", TABLE.schema)
    table.append(TABLE)
    path = Path(metadata_file(table))
    metadata = json.loads(path.read_text())
    metadata["schemas"][0]["fields"][1]["initial-default"] = "none"
    path.write_text(json.dumps({**metadata, "format-version": 3, "next-row-id": 3}))
    assert "gives column 'name' a value in files that lack it" in refusal(path).message


def test_added_columns_are_null_before_and_widened_types_are_read(catalog: InMemoryCatalog, tmp_path: Path) -> None:
    table = catalog.create_table("n.t", pa.schema([("id", pa.int32())]))
    table.append(pa.table({"id": pa.array([1], pa.int32())}))
    with table.update_schema() as update:
        update.update_column("id", LongType())
        update.add_column("more", StringType())
    table.append(pa.table({"id": pa.array([2**40], pa.int64()), "more": ["x"]}))
    assert read(metadata_file(table), tmp_path) == [{"id": 1, "more": None}, {"id": 2**40, "more": "x"}]


def test_renamed_and_replaced_columns_are_refused(catalog: InMemoryCatalog) -> None:
    table = catalog.create_table("n.t", TABLE.schema)
    table.append(TABLE)
    with table.update_schema() as update:
        update.rename_column("name", "title")
    assert "a column of its table was renamed or replaced: 'name'" in refusal(metadata_file(table)).message
    with table.update_schema(allow_incompatible_changes=True) as update:
        update.delete_column("title")
    with table.update_schema() as update:
        update.add_column("name", StringType())
    assert "renamed or replaced: 'name'" in refusal(metadata_file(table)).message


def test_an_iceberg_table_without_rows_has_its_columns(catalog: InMemoryCatalog, tmp_path: Path) -> None:
    table = catalog.create_table("n.t", TABLE.schema)
    description = look(metadata_file(table))
    assert description.arrow_schema == TABLE.schema
    assert rows_of(description, tmp_path) == []


def test_files_of_an_iceberg_table_outside_the_roots_are_refused(catalog: InMemoryCatalog, tmp_path: Path) -> None:
    table = catalog.create_table("n.t", TABLE.schema)
    table.append(TABLE)
    inside = Locations([f"{tmp_path}/house"])
    assert look(metadata_file(table), inside).rows == 3
    assert "outside the folders" in refusal(metadata_file(table), Locations([f"{tmp_path}/house/n/t/metadata"])).message
    metadata = json.loads((path := tmp_path / metadata_file(table)).read_text())
    metadata["snapshots"][0]["manifest-list"] = "/etc/hostname"
    path.write_text(json.dumps(metadata))
    assert "outside the folders" in refusal(metadata_file(table), inside).message


def test_damaged_tables_are_named(catalog: InMemoryCatalog, tmp_path: Path) -> None:
    table = catalog.create_table("n.t", TABLE.schema)
    table.append(TABLE)
    for path in (tmp_path / "house").rglob("*.avro"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert metadata_file(table) in refusal(metadata_file(table)).message


class DeleteManifestWriter(ManifestWriterV2):
    """Writes what pyiceberg only reads: a manifest of delete files."""

    def content(self) -> ManifestContent:
        return ManifestContent.DELETES


def add_position_delete(table: Any, folder: Path) -> None:
    """Delete the first row of a table's file by a delete file, in its current snapshot."""
    (file,) = (task.file for task in table.scan().plan_files())
    deletes = folder / "deletes.parquet"
    pq.write_table(pa.table({"file_path": [file.file_path], "pos": pa.array([0], pa.int64())}), deletes)
    snapshot = table.current_snapshot()
    deleted = DataFile.from_args(
        content=DataFileContent.POSITION_DELETES,
        file_path=str(deletes),
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=1,
        file_size_in_bytes=deletes.stat().st_size,
    )
    deleted.spec_id = 0
    entry = ManifestEntry.from_args(
        status=ManifestEntryStatus.ADDED, snapshot_id=snapshot.snapshot_id, sequence_number=2, data_file=deleted
    )
    output = table.io.new_output(str(folder / "deletes.avro"))
    with DeleteManifestWriter(table.spec(), table.schema(), output, snapshot.snapshot_id, "null") as writer:
        writer.add_entry(entry)
    manifests = [*snapshot.manifests(table.io), writer.to_manifest_file()]
    output = table.io.new_output(str(folder / "list.avro"))
    with write_manifest_list(2, output, snapshot.snapshot_id, None, 2, "null") as listed:
        listed.add_manifests(manifests)
    path = Path(metadata_file(table))
    metadata = json.loads(path.read_text())
    metadata["snapshots"][0]["manifest-list"] = str(folder / "list.avro")
    path.write_text(json.dumps(metadata))


def test_delete_files_are_refused(catalog: InMemoryCatalog, tmp_path: Path) -> None:
    table = catalog.create_table("n.t", TABLE.schema)
    table.append(TABLE)
    assert look(metadata_file(table)).rows == 3
    add_position_delete(table, tmp_path)
    error = refusal(metadata_file(table))
    assert "has delete files" in error.message
    assert "rewrite_data_files" in error.hint
