"""What is found out about a source when it is described: its schema, its rows, and what does not fit together."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from batchmill.errors import InvalidRequest, InvalidRows, InvalidSource
from batchmill.jobs.files import FileSource
from batchmill.sources import End, InputSplit, Source, SourceDescription, describe, describe_upload, open_source
from batchmill.sources.describing import scan
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations

if TYPE_CHECKING:
    from pathlib import Path

LOCATIONS = Locations(UNRESTRICTED)


def look(path: Path, columns: list[str] | None = None) -> SourceDescription:
    return describe(FileSource(path=str(path), columns=columns), LOCATIONS)


def refusal(path: Path, columns: list[str] | None = None) -> InvalidSource:
    with pytest.raises(InvalidSource) as caught:
        look(path, columns)
    return caught.value


def opened(description: SourceDescription, folder: Path) -> Source:
    return open_source(description, LOCATIONS, BlobStore.open(f"{folder}/_blobs", LOCATIONS), "jobs/job-1/staged")


def read_all(description: SourceDescription, folder: Path) -> pa.Table:
    source = opened(description, folder)
    with source.splitter() as splitter:
        split = splitter.next_split(1 << 30, 1 << 40)
        assert splitter.next_split(1, 1) == End()
    return source.read(split.slices if isinstance(split, InputSplit) else ())


def types(description: SourceDescription) -> dict[str, str]:
    return {field.name: str(field.type) for field in description.arrow_schema}


def write_jsonl(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# --- JSON Lines


def test_json_types_give_way_and_fields_found_anywhere_are_columns(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "a.jsonl",
        {"n": 1, "maybe": None, "tags": []},
        {"n": 1.5, "maybe": "x", "tags": ["t"], "deep": {"a": 1}},
        {"deep": {"b": [1.5]}},
    )
    description = look(path)
    assert types(description) == {
        "n": "double",
        "maybe": "string",
        "tags": "list<item: string>",
        "deep": "struct<a: int64, b: list<item: double>>",
    }
    assert read_all(description, tmp_path).to_pylist() == [
        {"n": 1.0, "maybe": None, "tags": [], "deep": None},
        {"n": 1.5, "maybe": "x", "tags": ["t"], "deep": {"a": 1, "b": None}},
        {"n": None, "maybe": None, "tags": None, "deep": {"a": None, "b": [1.5]}},
    ]


def test_json_types_are_united_over_files_and_stretches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_RANGE_BYTES", 30)
    write_jsonl(tmp_path / "1.jsonl", *({"n": n} for n in range(20)), {"n": 0.5})
    write_jsonl(tmp_path / "2.jsonl", {"n": None, "new": True})
    assert types(look(tmp_path)) == {"n": "double", "new": "bool"}


def test_json_text_that_looks_like_a_time_stays_text(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", {"at": "2024-01-01", "in": [{"x": "2024-01-01T00:00:00"}]})
    description = look(path)
    assert types(description) == {"at": "string", "in": "list<item: struct<x: string>>"}
    assert read_all(description, tmp_path).to_pylist()[0]["at"] == "2024-01-01"


def test_a_json_column_of_two_types_in_two_files_is_named_with_its_line(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "1.jsonl", {"id": 1})
    write_jsonl(tmp_path / "2.jsonl", {"id": None}, {"id": "x"})
    error = refusal(tmp_path)
    assert error.details == {"file": f"{tmp_path}/2.jsonl", "line": 2, "column": "id"}
    assert "column 'id' holds string here, and int64 before" in error.message


# --- CSV


def test_csv_types_keep_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "int,float,zip,big,flag,empty,mixed,day,some\n"
        "1,1,01234,12345678901234567890,true,,1,2024-01-01,\n"
        '-2,2.5e3,99,1,False,,x,2024-01-02,"7"\n'
    )
    description = look(tmp_path / "a.csv")
    assert types(description) == {
        "int": "int64",
        "float": "double",
        "zip": "string",
        "big": "string",
        "flag": "bool",
        "empty": "string",
        "mixed": "string",
        "day": "string",
        "some": "int64",
    }
    assert list(read_all(description, tmp_path).to_pylist()[0].values()) == [
        *(1, 1.0, "01234", "12345678901234567890", True, "", "1", "2024-01-01", None)
    ]


def test_csv_types_are_united_over_stretches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "_RANGE_BYTES", 10)
    (tmp_path / "a.csv").write_text("a,b,c\n1,1,1\n,2.5,2\n3,3,x\n")
    assert types(look(tmp_path / "a.csv")) == {"a": "int64", "b": "double", "c": "string"}


def test_a_csv_file_with_another_header_is_named(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "2.csv").write_text("a,c\n1,2\n")
    (tmp_path / "0.csv").write_text("")
    message = str(refusal(tmp_path))
    assert f"{tmp_path}/2.csv has the columns a, c; {tmp_path}/1.csv has a, b." in message


def test_a_csv_header_with_quotes_a_mark_and_blank_lines_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbf\n\n"a ""b""","c\nd"\r\n1,2\r\n')
    description = look(tmp_path / "a.csv")
    assert read_all(description, tmp_path).to_pylist() == [{'a "b"': 1, "c\nd": 2}]


def test_a_column_that_stands_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,a\n1,2,3\n")
    assert "two columns called 'a'" in str(refusal(tmp_path / "a.csv"))
    pq.write_table(pa.table([[1], [2]], names=["x", "x"]), tmp_path / "a.parquet")
    assert "two columns called 'x'" in str(refusal(tmp_path / "a.parquet"))


# --- Parquet and Arrow


def test_parquet_files_of_two_types_are_named_with_both(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "x": ["a"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"id": ["1"], "x": ["a"]}), tmp_path / "2.parquet")
    error = refusal(tmp_path)
    assert error.details == {"file": f"{tmp_path}/2.parquet", "column": "id"}
    assert f"column 'id' is string in {tmp_path}/2.parquet, and int64 in {tmp_path}/1.parquet" in error.message
    assert types(look(tmp_path, ["x"])) == {"x": "string"}


def test_a_parquet_file_without_a_column_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1], "x": ["a"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"id": [1]}), tmp_path / "2.parquet")
    pq.write_table(pa.table({"id": [1], "x": ["a"], "y": [1]}), tmp_path / "3.parquet")
    assert f"{tmp_path}/2.parquet has no column 'x', which {tmp_path}/1.parquet has" in refusal(tmp_path).message
    (tmp_path / "2.parquet").unlink()
    assert f"{tmp_path}/3.parquet has a column 'y', which {tmp_path}/1.parquet has not" in refusal(tmp_path).message


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_metadata_order_and_null_columns_make_no_other_schema(tmp_path: Path, ending: str) -> None:
    tables = [
        pa.table({"a": pa.nulls(1), "b": [1]}).replace_schema_metadata({"k": "v"}),
        pa.table({"b": [2], "a": ["x"]}),
        pa.table({"a": ["y"], "b": [3]}, schema=pa.schema([pa.field("a", pa.string(), False), ("b", pa.int64())])),
    ]
    for number, table in enumerate(tables):
        path = str(tmp_path / f"{number}.{ending}")
        pq.write_table(table, path) if ending == "parquet" else pa.feather.write_feather(table, path)
    description = look(tmp_path)
    table = read_all(description, tmp_path)
    assert table.schema.equals(pa.schema([("a", pa.string()), ("b", pa.int64())]), check_metadata=True)
    assert table.to_pylist() == [{"a": None, "b": 1}, {"a": "x", "b": 2}, {"a": "y", "b": 3}]


def test_an_arrow_file_with_a_dictionary_and_nested_columns_is_read(tmp_path: Path) -> None:
    table = pa.table(
        {
            "word": pa.array(["a", "b", "a"]).dictionary_encode(),
            "deep": [{"x": [1]}, None, {"x": None}],
            "no": [None] * 3,
        }
    )
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    assert read_all(look(tmp_path / "a.arrow"), tmp_path).to_pylist() == table.to_pylist()


def test_an_arrow_file_with_a_damaged_batch_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, pa.schema([("n", pa.int64())])) as writer:
        at = file.tell()
        writer.write_batch(pa.record_batch({"n": range(100)}))
    data = bytearray(path.read_bytes())
    data[at : at + 160] = b"\x7f" * 160
    path.write_bytes(data)
    assert f"{path} cannot be read: a record batch of the Arrow file is damaged" in refusal(path).message


# --- Any format


@pytest.mark.parametrize("ending", ["parquet", "feather", "jsonl", "csv"])
def test_columns_are_selected_in_the_order_asked_for(tmp_path: Path, ending: str) -> None:
    table = pa.table({"a": [1, 2], "b.c": ["x", "y"], "d": [True, False], "b": [1.5, 2.5]})
    path = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pq.write_table(table, path)
    elif ending == "feather":
        pa.feather.write_feather(table, str(path))
    elif ending == "jsonl":
        write_jsonl(path, *table.to_pylist())
    else:
        path.write_text("a,b.c,d,b\n1,x,true,1.5\n2,y,false,2.5\n")
    found = read_all(look(path, ["b.c", "a"]), tmp_path)
    assert found.column_names == ["b.c", "a"]
    assert found.to_pylist() == [{"b.c": "x", "a": 1}, {"b.c": "y", "a": 2}]
    error = refusal(path, ["aa"])
    assert error.message == f"{path} has no column 'aa'."
    assert "Did you mean 'a'?" in error.hint or "Known: a," in error.hint


def test_columns_that_name_nothing_or_one_twice_are_refused(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", {"a": 1})
    assert "`columns` is empty" in refusal(path, []).message
    assert "two columns called 'a'" in refusal(path, ["a", "a"]).message


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "a.jsonl.gz", "a.parquet", "a.arrow"])
def test_a_source_of_zero_rows_is_described_with_zero_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(pa.table({"a": pa.array([], pa.int64())}), path)
    elif name == "a.arrow":
        pa.feather.write_feather(pa.table({"a": pa.array([], pa.int64())}), str(path))
    elif name == "a.csv":
        path.write_text("a,b\n")
    else:
        path.write_bytes(b"")
    description = look(path)
    assert description.rows == 0
    assert read_all(description, tmp_path).num_rows == 0
    assert opened(description, tmp_path).count("").exact


def test_an_empty_file_among_others_is_fine(tmp_path: Path) -> None:
    (tmp_path / "0.jsonl").write_text("")
    (tmp_path / "1.jsonl").write_text("\n \n\r\n")
    write_jsonl(tmp_path / "2.jsonl", {"a": 1})
    (tmp_path / "3.jsonl.gz").write_bytes(gzip.compress(b"\n\n"))
    description = look(tmp_path)
    assert [file.rows for file in description.files] == [0, 0, 1, 0]
    assert read_all(description, tmp_path).to_pylist() == [{"a": 1}]


def test_every_line_of_text_is_a_row_blank_ones_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\n\xc3\xa9\r\x0bx\nlast")
    description = look(tmp_path / "a.txt")
    assert read_all(description, tmp_path).column("text").to_pylist() == ["one", "", "é\r\x0bx", "last"]


def test_a_gzip_file_of_several_members_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a\nb") + gzip.compress(b"c\nd\n"))
    description = look(tmp_path / "a.txt.gz")
    assert read_all(description, tmp_path).column("text").to_pylist() == ["a", "bc", "d"]


def test_a_description_is_the_same_after_its_json(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", {"a": 1})
    description = look(tmp_path / "a.jsonl")
    again = SourceDescription.from_json(description.to_json())
    assert again == description
    assert again.fingerprint == description.fingerprint
    write_jsonl(tmp_path / "b.jsonl", {"a": 1})
    assert look(tmp_path).fingerprint != description.fingerprint


# --- Large sources


def test_a_large_source_is_looked_at_by_its_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_COMPLETE_BYTES", 1000)
    monkeypatch.setattr(scan, "MIN_HEAD_BYTES", 200)
    write_jsonl(tmp_path / "1.jsonl", *({"number": number} for number in range(1000)))
    write_jsonl(tmp_path / "2.jsonl", {"number": 1, "late": True})
    description = look(tmp_path)
    assert description.rows is None
    assert [file.rows for file in description.files] == [None, 1]
    assert types(description) == {"number": "int64", "late": "bool"}
    assert read_all(description, tmp_path).num_rows == 1001


@pytest.mark.parametrize("ending", ["txt", "txt.gz"])
def test_the_number_of_rows_is_reckoned_from_bytes_until_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(scan, "MAX_COMPLETE_BYTES", 100)
    monkeypatch.setattr(scan, "MIN_HEAD_BYTES", 1000)
    for number in range(3):
        data = "".join(f"a line of text {line:06d}\n" for line in range(20_000)).encode()
        (tmp_path / f"{number}.{ending}").write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    description = look(tmp_path)
    source = opened(description, tmp_path)
    cursor, counts = "", [source.count("")]
    with source.splitter() as splitter:
        for split in splitter.available(7000, 1 << 30):
            cursor = split.cursor
            counts.append(source.count(cursor))
    assert counts[-1].rows == 60_000
    assert counts[-1].exact
    assert not any(count.exact for count in counts[:-1])
    if ending == "txt":
        assert all(abs(count.rows - 60_000) < 600 for count in counts)


# --- Uploads


def upload(blobs: BlobStore, *tables: pa.Table) -> SourceDescription:
    for number, table in enumerate(tables):
        blobs.put_table(f"uploads/upl-1/part-{number:08d}.arrow", table)
    return describe_upload(blobs, "upl-1", len(tables))


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore.open(str(tmp_path / "_blobs"), LOCATIONS)


def test_uploaded_parts_are_one_source(blobs: BlobStore) -> None:
    tables = [
        pa.table({"id": [1, 2], "score": pa.nulls(2), "tags": [[], None]}),
        pa.table({"score": [3], "id": [3], "tags": [["x"]]}),
        pa.table({"id": [4], "score": [4.5], "tags": pa.nulls(1)}),
    ]
    description = upload(blobs, *tables)
    assert description.rows == 4
    assert types(description) == {"id": "int64", "score": "double", "tags": "list<item: string>"}
    source = open_source(SourceDescription.from_json(description.to_json()), Locations([]), blobs, "unused")
    with source.splitter() as splitter:
        splits = list(splitter.available(3, 1 << 30))
    assert [split.rows for split in splits] == [3, 1]
    assert [row for split in splits for row in source.read(split.slices).to_pylist()] == [
        {"id": 1, "score": None, "tags": []},
        {"id": 2, "score": None, "tags": None},
        {"id": 3, "score": 3.0, "tags": ["x"]},
        {"id": 4, "score": 4.5, "tags": None},
    ]


def test_uploaded_parts_of_two_types_name_the_first_row(blobs: BlobStore) -> None:
    with pytest.raises(
        InvalidRows, match="rows from 2 on hold string in column 'id', those before hold int64"
    ) as caught:
        upload(blobs, pa.table({"id": [1, 2]}), pa.table({"id": ["3"]}))
    assert caught.value.details == {"row": 2, "column": "id"}


def test_a_missing_or_damaged_part_is_named(blobs: BlobStore) -> None:
    upload(blobs, pa.table({"id": [1]}))
    with pytest.raises(InvalidSource, match="part 1 of upload 'upl-1' is missing; expected the parts 0 to 2"):
        describe_upload(blobs, "upl-1", 3)
    with pytest.raises(InvalidSource, match="part 0 of upload 'upl-9' is missing"):
        describe_upload(blobs, "upl-9", 10**15)
    blobs.put("uploads/upl-1/part-00000001.arrow", b"no Arrow")
    with pytest.raises(InvalidSource, match=r"part-00000001\.arrow cannot be read"):
        describe_upload(blobs, "upl-1", 2)
    with pytest.raises(InvalidRequest):
        describe_upload(blobs, "../secret", 1)


def test_an_upload_of_no_parts_has_no_rows(blobs: BlobStore) -> None:
    assert upload(blobs).rows == 0
