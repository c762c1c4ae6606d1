"""A broken line is told with its file and its line: at submit where it is seen, else when it is read."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from batchmill.errors import InvalidSource
from batchmill.jobs.files import FileSource
from batchmill.sources import InputSplit, Source, SourceDescription, Splitter, describe, open_source
from batchmill.sources.describing import scan
from batchmill.sources.text import text_ranges
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations

if TYPE_CHECKING:
    from pathlib import Path

LOCATIONS = Locations(UNRESTRICTED)

JSON_FAULTS = [
    (b'{"id": 1, "text": "x"', "this is no JSON object: expecting ',' delimiter, at character"),
    (b"nonsense", "this is no JSON object: expecting value, at character 1"),
    (b'{"id": 1, "text": "x"} {"id": 2, "text": "y"}', "this is no JSON object: extra data, at character 24"),
    (b'{"id": 1, "text":\n"x"}', "this is no JSON object: expecting value"),
    (b"[1, 2]", "expected a JSON object, got a list"),
    (b"12", "expected a JSON object, got a number"),
    (b'"x"', "expected a JSON object, got text"),
    (b"null", "expected a JSON object, got null"),
    (b'{"id": 1, "text": "\xff"}', "its byte 20, 0xff, is no UTF-8"),
    (b'{"id": "one", "text": "x"}', "column 'id' holds string here, and int64 before"),
    (b'{"id": true, "text": "x"}', "column 'id' holds bool here, and int64 before"),
    (b'{"id": 1, "text": {"a": 1}}', "column 'text' holds struct<a: int64> here, and string before"),
    (b'{"id": 1, "id": 2, "text": "x"}', "the field 'id' is there twice"),
]
DEEP = [
    b'{"id": 1, "text": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
    b'{"id": 1, "x": "' + b"]" * 50_000 + b'", "text": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
]
LATE_FAULTS = [
    (b'{"id": 1, "text": "x", "extra": 1}', "it has a new field 'extra'"),
    (b'{"id": 1.5, "text": "x"}', "column 'id' holds double here, and int64 before"),
]
CSV_FAULTS = [
    (b"1", "expected 2 values (id, text), got 1"),
    (b"1,x,y", "expected 2 values (id, text), got 3"),
    (b"1,\xff", "its byte 3, 0xff, is no UTF-8"),
    (b"1,x\r2,y", "it contains a carriage return without a line feed"),
]
LATE_CSV_FAULTS = [
    (b"one,x", "column 'id' holds 'one' here, and int64 before"),
    (b"1.5,x", "column 'id' holds '1.5' here, and int64 before"),
]


def refusal(path: Path, columns: list[str] | None = None) -> InvalidSource:
    with pytest.raises(InvalidSource) as caught:
        describe(FileSource(path=str(path), columns=columns), LOCATIONS)
    return caught.value


def read_refusal(path: Path, folder: Path) -> InvalidSource:
    """The error of splitting and reading all of a source that described well."""
    blobs = BlobStore.open(f"{folder}/_blobs", LOCATIONS)
    source = open_source(describe(FileSource(path=str(path)), LOCATIONS), LOCATIONS, blobs, "jobs/job-1/staged")
    with source.splitter() as splitter, pytest.raises(InvalidSource) as caught:
        read_all(source, splitter)
    return caught.value


def read_all(source: Source, splitter: Splitter) -> None:
    for split in splitter.available(100, 1 << 20):
        source.read(split.slices)


def check(error: InvalidSource, path: Path, line: int, reason: str) -> None:
    assert f"{path}, line {line}: {reason}" in error.message
    assert (error.details["file"], error.details["line"]) == (str(path), line)
    assert error.hint


def json_rows(count: int) -> bytes:
    return b"".join(b'{"id": %d, "text": "t"}\n' % number for number in range(count))


def csv_rows(count: int) -> bytes:
    return b"".join(b'%d,"a\nb"\n' % number for number in range(count))


@pytest.mark.parametrize(("line", "reason"), JSON_FAULTS)
@pytest.mark.parametrize("before", [1, 2, 500])
def test_a_broken_json_line_is_named_with_its_file_and_line(
    tmp_path: Path, line: bytes, reason: str, before: int
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\n" + json_rows(before) + b" \r\n" + line + b"\n" + json_rows(3))
    check(refusal(path), path, before + 3, reason)


@pytest.mark.parametrize(("line", "reason"), CSV_FAULTS)
@pytest.mark.parametrize("before", [1, 500])
def test_a_broken_csv_line_is_named_with_its_file_and_line(
    tmp_path: Path, line: bytes, reason: str, before: int
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,text\n" + csv_rows(before) + b"\n" + line + b"\n" + csv_rows(3))
    check(refusal(path), path, 2 * before + 3, reason)


@pytest.mark.parametrize("line", DEEP, ids=["lists", "objects"])
def test_values_nested_too_deep_are_refused(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_rows(3) + line + b"\n")
    check(refusal(path), path, 4, "its values are nested deeper than 60 levels")


def test_values_nested_as_deep_as_arrow_can_store_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"x": "[[{{", "y": ' + b"[" * 58 + b"]" * 58 + b"}\n" + b'{"y": [' + b"[]," * 90 + b"[]]}\n")
    description = describe(FileSource(path=str(path)), LOCATIONS)
    assert SourceDescription.from_json(description.to_json()).arrow_schema == description.arrow_schema


def test_a_line_of_null_comes_first_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"null\n" + json_rows(2))
    check(refusal(path), path, 1, "expected a JSON object, got null")


def test_a_broken_first_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"oops")
    check(refusal(path), path, 1, "this is no JSON object")


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
@pytest.mark.parametrize(("line", "reason"), [*JSON_FAULTS, *LATE_FAULTS])
def test_a_broken_json_line_behind_the_head_is_named_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, reason: str, ending: str
) -> None:
    monkeypatch.setattr(scan, "MAX_COMPLETE_BYTES", 10)
    monkeypatch.setattr(scan, "MIN_HEAD_BYTES", 100)
    path = tmp_path / f"a.{ending}"
    data = json_rows(1000) + b"\n" + line + b"\n" + json_rows(500)
    path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    check(read_refusal(path, tmp_path), path, 1002, reason)


@pytest.mark.parametrize(("line", "reason"), [*CSV_FAULTS, *LATE_CSV_FAULTS])
def test_a_broken_csv_line_behind_the_head_is_named_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: bytes, reason: str
) -> None:
    monkeypatch.setattr(scan, "MAX_COMPLETE_BYTES", 10)
    monkeypatch.setattr(scan, "MIN_HEAD_BYTES", 100)
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,text\n" + csv_rows(1000) + line + b"\n" + csv_rows(500))
    check(read_refusal(path, tmp_path), path, 2002, reason)


def test_a_late_field_says_what_to_do_and_may_be_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "MAX_COMPLETE_BYTES", 10)
    monkeypatch.setattr(scan, "MIN_HEAD_BYTES", 100)
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_rows(1000) + b'{"id": 7, "late": 1}\n')
    error = read_refusal(path, tmp_path)
    assert "`columns`" in error.hint
    assert error.details["column"] == "late"
    blobs = BlobStore.open(f"{tmp_path}/_blobs", LOCATIONS)
    description = describe(FileSource(path=str(path), columns=["id"]), LOCATIONS)
    source = open_source(description, LOCATIONS, blobs, "unused")
    split = source.splitter().next_split(10_000, 1 << 30)
    assert isinstance(split, InputSplit)
    assert source.read(split.slices).column("id").to_pylist() == [*range(1000), 7]


def test_text_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n\ntw\xffo\nthree\n")
    check(refusal(path), path, 3, "its byte 3, 0xff, is no UTF-8")


def test_an_open_quote_is_named_where_its_row_begins(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'id,text\n1,"a\nb"\n2,"never closed\n' + csv_rows(10).replace(b'"', b""))
    check(refusal(path), path, 4, "a quote is opened and never closed")


def test_a_row_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_ranges, "MAX_ROW_BYTES", 1 << 20)
    monkeypatch.setattr(text_ranges, "LOCAL_BLOCK_BYTES", 1 << 16)
    path = tmp_path / "a.jsonl"
    path.write_bytes(json_rows(5) + b" " * (2 << 20))
    check(refusal(path), path, 6, "the row is longer than 1 MiB")


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_cut_off_gzip_file_is_named(tmp_path: Path, cut: float) -> None:
    path = tmp_path / "a.jsonl.gz"
    data = gzip.compress(json_rows(10_000))
    path.write_bytes(data[: int(len(data) * cut)])
    assert f"{path} cannot be read: Truncated compressed stream" in refusal(path).message


def test_a_header_that_is_no_csv_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,te\xffxt\n1,2\n")
    assert f"{path} cannot be read: line 1, its header, is no CSV" in refusal(path).message


def test_a_message_shows_no_more_than_the_beginning_of_a_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_COMPLETE_BYTES", 10)
    monkeypatch.setattr(scan, "MIN_HEAD_BYTES", 100)
    path = tmp_path / "a.csv"
    path.write_bytes(b"id,text\n" + csv_rows(100) + b"x" * 10_000 + b",y\n")
    assert len(str(read_refusal(path, tmp_path))) < 1000


def test_a_fault_survives_its_envelope(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"oops\n")
    assert json.loads(json.dumps(refusal(path).envelope()))["error"]["details"]["line"] == 1


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_a_column_name_that_is_no_utf8_is_refused_with_its_file(tmp_path: Path, ending: str) -> None:
    path, table = tmp_path / f"a.{ending}", pa.table({"nameX": ["a", "b"]})
    if ending == "parquet":
        pq.write_table(table, path, store_schema=False)
    else:
        pyarrow.feather.write_feather(table, path, compression="uncompressed")
    path.write_bytes(path.read_bytes().replace(b"nameX", b"name\xe9"))
    with pytest.raises(InvalidSource, match=f"a.{ending} cannot be read: 'utf-8' codec"):
        describe(FileSource(path=str(path)), Locations(UNRESTRICTED))
