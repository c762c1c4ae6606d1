"""Tables of Delta Lake, made by their own library: the current rows of a version, or a refusal."""

from __future__ import annotations

import json
import shutil
import sys
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from batchmill.errors import InvalidSource
from batchmill.jobs.files import FileSource
from batchmill.sources import describe
from batchmill.storage.locations import Locations
from support.source_reading import LOCATIONS
from support.source_tables import look, pairs, read, refusal, rows_of

if TYPE_CHECKING:
    from pathlib import Path


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


def test_a_damaged_delta_table_is_named(delta: Path) -> None:
    (delta / "_delta_log" / f"{0:020}.json").write_text("no JSON")
    assert str(delta) in refusal(delta).message
