"""Tables of Delta Lake and Iceberg, made by their own libraries: the current rows of a version, or a refusal."""

from __future__ import annotations

import json
import shutil
import sys
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
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

from batchmill.errors import InvalidSource
from batchmill.jobs.job import FileSource
from batchmill.sources import SourceDescription, describe, open_source
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCATIONS = Locations(UNRESTRICTED)


def look(path: Path | str, locations: Locations = LOCATIONS, **options: Any) -> SourceDescription:
    return describe(FileSource(path=str(path), **options), locations)


def rows_of(description: SourceDescription, folder: Path) -> list[dict[str, Any]]:
    source = open_source(description, LOCATIONS, BlobStore.open(str(folder / "_blobs"), LOCATIONS), "staged")
    with source.splitter() as splitter:
        splits = list(splitter.available(3, 1 << 40))
    assert sum(split.rows for split in splits) == source.count("").rows
    return [row for split in splits for row in source.read(split.slices).to_pylist()]


def read(path: Path | str, folder: Path, **options: Any) -> list[dict[str, Any]]:
    return sorted(rows_of(look(path, **options), folder), key=str)


def refusal(path: Path | str, locations: Locations = LOCATIONS, **options: Any) -> InvalidSource:
    with pytest.raises(InvalidSource) as caught:
        look(path, locations, **options)
    return caught.value


# --- Delta Lake


@pytest.fixture
def delta(tmp_path: Path) -> Path:
    """A table of which rows were added, deleted, updated and compacted."""
    path = tmp_path / "a table"
    write_deltalake(path, pa.table({"id": [1, 2, 3], "name": ["a", "b", "c"]}))
    write_deltalake(path, pa.table({"id": [4, 5], "name": ["d", "e"]}), mode="append")
    table = DeltaTable(path)
    table.delete("id = 2")
    table.update(updates={"name": "'new'"}, predicate="id = 4")
    return path


CURRENT = [(1, "a"), (3, "c"), (4, "new"), (5, "e")]


def pairs(rows: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return sorted((row["id"], row["name"]) for row in rows)


def test_the_current_rows_of_a_delta_table_are_read(delta: Path, tmp_path: Path) -> None:
    description = look(delta)
    assert description.table_version == 3
    assert pairs(rows_of(description, tmp_path)) == CURRENT
    DeltaTable(delta).optimize.compact()
    DeltaTable(delta).create_checkpoint()
    assert pairs(read(delta, tmp_path)) == CURRENT
    assert read(delta, tmp_path, columns=["name"], limit=2, path_column="file", sample=4)


def test_an_earlier_version_is_read_if_it_is_asked_for(delta: Path, tmp_path: Path) -> None:
    assert [row["id"] for row in read(delta, tmp_path, table_version=0)] == [1, 2, 3]
    assert "cannot be read" in refusal(delta, table_version=99).message


def test_a_described_delta_table_stays_at_its_version(delta: Path, tmp_path: Path) -> None:
    description = look(delta)
    write_deltalake(delta, pa.table({"id": [9], "name": ["z"]}), mode="overwrite")
    assert pairs(rows_of(description, tmp_path)) == CURRENT
    assert pairs(read(delta, tmp_path)) == [(9, "z")]
    assert look(delta, table_version=3).fingerprint == description.fingerprint
    assert look(delta).fingerprint != description.fingerprint
    DeltaTable(delta).vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    with pytest.raises(InvalidSource, match="does not exist"):
        rows_of(description, tmp_path)


def test_partition_columns_of_any_type_have_their_values(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": range(4),
            "text": ["a b/c=d", "é", None, "100%25"],
            "day": pa.array([0, 19_000, None, 2], pa.date32()),
            "at": pa.array([0, 1_700_000_000_000_001, None, 1], pa.timestamp("us", "UTC")),
            "truth": [True, False, None, True],
            "price": pa.array([Decimal("1.50"), Decimal("2.25"), None, Decimal("0.00")], pa.decimal128(9, 2)),
            "number": pa.array([1, -2, None, 3], pa.int32()),
        }
    )
    partitions = [name for name in table.column_names if name != "id"]
    write_deltalake(tmp_path / "t", table, partition_by=partitions)
    description = look(tmp_path / "t")
    assert description.arrow_schema == table.schema
    assert sorted(rows_of(description, tmp_path), key=lambda row: row["id"]) == table.to_pylist()
    assert read(tmp_path / "t", tmp_path, columns=["day", "id"]) == sorted(
        table.select(["day", "id"]).to_pylist(), key=str
    )


def test_columns_that_were_added_later_are_null_before(tmp_path: Path) -> None:
    write_deltalake(tmp_path / "t", pa.table({"id": [1]}))
    write_deltalake(tmp_path / "t", pa.table({"id": [2], "more": ["x"]}), mode="append", schema_mode="merge")
    assert read(tmp_path / "t", tmp_path) == [{"id": 1, "more": None}, {"id": 2, "more": "x"}]


def test_a_delta_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    DeltaTable.create(tmp_path / "t", pa.schema([("id", pa.int64())]))
    description = look(tmp_path / "t")
    assert (description.arrow_schema, rows_of(description, tmp_path)) == (pa.schema([("id", pa.int64())]), [])


def add_commit(table: Path, actions: list[dict[str, Any]]) -> None:
    versions = sorted((table / "_delta_log").glob("*.json"))
    path = table / "_delta_log" / f"{len(versions):020}.json"
    path.write_text("".join(json.dumps(action) + "\n" for action in actions))


def protocol(*features: str) -> dict[str, Any]:
    return {
        "protocol": {
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": list(features),
            "writerFeatures": list(features),
        }
    }


def deletion_vector(*rows: int) -> dict[str, Any]:
    """An inline deletion vector: the roaring bitmap of 64 bits of the format, in Z85."""
    keys = b"".join(row.to_bytes(2, "little") for row in rows)
    small = (
        (12_346).to_bytes(4, "little") + (1).to_bytes(4, "little") + bytes(2) + (len(rows) - 1).to_bytes(2, "little")
    )
    bitmap = small + (16).to_bytes(4, "little") + keys
    data = (1_681_511_377).to_bytes(4, "little") + (1).to_bytes(8, "little") + bytes(4) + bitmap
    data += bytes(-len(data) % 4)
    return {
        "storageType": "i",
        "pathOrInlineDv": _z85(data),
        "sizeInBytes": len(data),
        "cardinality": len(rows),
    }


def _z85(data: bytes) -> str:
    alphabet = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    text = ""
    for start in range(0, len(data), 4):
        value, digits = int.from_bytes(data[start : start + 4], "big"), ""
        for _ in range(5):
            value, digit = divmod(value, 85)
            digits = alphabet[digit] + digits
        text += digits
    return text


def test_deletion_vectors_are_refused_and_tables_that_only_allow_them_are_read(tmp_path: Path) -> None:
    path = tmp_path / "t"
    write_deltalake(path, pa.table({"id": [1, 2, 3]}))
    (first,) = (
        json.loads(line) for line in (path / "_delta_log" / f"{0:020}.json").read_text().splitlines() if '"add"' in line
    )
    add_commit(path, [protocol("deletionVectors")])
    assert [row["id"] for row in read(path, tmp_path)] == [1, 2, 3]
    remove = {"path": first["add"]["path"], "deletionTimestamp": 1, "dataChange": True}
    add_commit(path, [{"remove": remove}, {"add": {**first["add"], "deletionVector": deletion_vector(1)}}])
    error = refusal(path)
    assert "has deletion vectors" in error.message
    assert "APPLY (PURGE)" in error.hint


def test_features_that_are_not_read_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "t"
    write_deltalake(path, pa.table({"id": [1]}))
    add_commit(path, [protocol("variantType")])
    assert "variantType" in refusal(path).message


def test_a_column_mapping_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t"
    DeltaTable.create(path, pa.schema([("id", pa.int64())]))
    log = path / "_delta_log" / f"{0:020}.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        if "metaData" in action:
            action["metaData"]["configuration"] = {"delta.columnMapping.mode": "name"}
            schema = json.loads(action["metaData"]["schemaString"])
            mapping = {"delta.columnMapping.id": 1, "delta.columnMapping.physicalName": "col-1"}
            schema["fields"][0]["metadata"] = mapping
            action["metaData"]["schemaString"] = json.dumps(schema)
        if "protocol" in action:
            action |= protocol("columnMapping")
    log.write_text("".join(json.dumps(action) + "\n" for action in actions))
    assert "column mapping 'name'" in refusal(path).message


def test_files_and_logs_outside_the_roots_are_refused(delta: Path, tmp_path: Path) -> None:
    inside = Locations([str(delta)])
    assert look(delta, inside).rows == 4
    secret = tmp_path / "secret.parquet"
    pq.write_table(pa.table({"id": [7], "name": ["secret"]}), secret)
    add = {"path": "../secret.parquet", "partitionValues": {}, "size": secret.stat().st_size, "modificationTime": 1}
    for outside in ("../secret.parquet", secret.as_uri(), "..%2Fsecret.parquet"):
        copy = tmp_path / "copy" / "t"
        shutil.rmtree(copy.parent, ignore_errors=True)
        shutil.copytree(delta, copy)
        add_commit(copy, [{"add": {**add, "path": outside, "dataChange": True}}])
        assert "outside the folders" in refusal(copy, Locations([str(copy)])).message
    log = tmp_path / "log.json"
    log.write_text("{}")
    (delta / "_delta_log" / f"{9:020}.json").symlink_to(log)
    assert "outside the folders" in refusal(delta, inside).message


def test_a_file_of_another_type_than_its_table_is_refused(delta: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["text"], "name": ["x"]}), delta / "odd.parquet")
    size = (delta / "odd.parquet").stat().st_size
    add = {"path": "odd.parquet", "partitionValues": {}, "size": size, "modificationTime": 1, "dataChange": True}
    add_commit(delta, [{"add": add}])
    assert "column 'id' is string in" in refusal(delta).message
    assert len(read(delta, tmp_path, columns=["name"])) == 5


def test_without_its_package_the_way_out_is_named(delta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deltalake", None)
    assert "batchmill[delta]" in refusal(delta).hint


def test_a_table_beside_other_sources_is_refused_and_a_version_of_files_too(delta: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidSource, match="is a Delta table"):
        describe(FileSource(path=[str(delta), str(tmp_path / "b.txt")]), LOCATIONS)
    assert "is a Delta table" in refusal(f"{delta}/*.parquet").message
    pq.write_table(pa.table({"n": [1]}), tmp_path / "a.parquet")
    assert "table_version" in refusal(tmp_path / "a.parquet", table_version=1).message


# --- Iceberg


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


def test_damaged_tables_are_named(catalog: InMemoryCatalog, delta: Path, tmp_path: Path) -> None:
    table = catalog.create_table("n.t", TABLE.schema)
    table.append(TABLE)
    for path in (tmp_path / "house").rglob("*.avro"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert metadata_file(table) in refusal(metadata_file(table)).message
    (delta / "_delta_log" / f"{0:020}.json").write_text("no JSON")
    assert str(delta) in refusal(delta).message


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
