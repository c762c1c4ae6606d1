"""Sources in an object store: the same rows as from a folder."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from batchmill.errors import InvalidSource
from batchmill.jobs.files import FileSource
from batchmill.sources import InputSplit, SourceDescription, describe, describe_upload, open_source
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import Locations

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = [{"id": number, "text": f"row {number}"} for number in range(2000)]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    store = boto3.resource("s3", endpoint_url=endpoint, region_name="us-east-1")
    for name in ("rows", "other"):
        store.create_bucket(Bucket=name)
    yield store.Bucket("rows")
    for name in ("rows", "other"):
        store.Bucket(name).objects.all().delete()
        store.Bucket(name).delete()
    store.meta.client.close()


@pytest.fixture
def locations(endpoint: str) -> Locations:
    return Locations(["s3://rows", "s3://blobs"], s3_endpoint=endpoint, s3_region="us-east-1")


def file_of(ending: str, rows: list[dict[str, object]]) -> bytes:
    table = pa.Table.from_pylist(rows)
    sink = pa.BufferOutputStream()
    if ending == "parquet":
        pq.write_table(table, sink, row_group_size=300)
    elif ending == "arrow":
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=300)
    else:
        text = "".join(f'{{"id": {row["id"]}, "text": "{row["text"]}"}}\n' for row in rows).encode()
        return gzip.compress(text) if ending.endswith("gz") else text
    data: bytes = sink.getvalue().to_pybytes()
    return data


@pytest.mark.parametrize(
    "ending",
    [
        "parquet",
        pytest.param("arrow", marks=pytest.mark.slow),
        pytest.param("jsonl", marks=pytest.mark.slow),
        "jsonl.gz",
    ],
)
def test_a_folder_in_a_bucket_gives_all_rows_in_order(ending: str, bucket: Any, locations: Locations) -> None:
    for number in range(11):
        rows = ROWS[number * 180 : (number + 1) * 180] if number < 10 else ROWS[1800:]
        bucket.put_object(Key=f"in/sub/part-{number}.{ending}", Body=file_of(ending, rows))
    bucket.put_object(Key="in/_SUCCESS", Body=b"")
    bucket.put_object(Key="in/_temporary/x.jsonl", Body=b"no rows")
    blobs = BlobStore(locations.resolve("s3://rows/blobs"))
    for path in ("s3://rows/in", "s3://rows/in/", f"s3://rows/i?/**/part-*.{ending}"):
        description = SourceDescription.from_json(describe(FileSource(path=path), locations).to_json())
        assert description.files[10].name == f"s3://rows/in/sub/part-10.{ending}"
        assert description.rows == 2000
        source = open_source(description, locations, blobs, "jobs/job-1/staged")
        found, cursor = [], ""
        while isinstance(split := source.splitter(cursor).next_split(413, 1 << 30), InputSplit):
            found += source.read(split.slices).to_pylist()
            cursor = split.cursor
        assert found == ROWS


def test_objects_are_rows_with_their_bytes(bucket: Any, locations: Locations) -> None:
    for number in range(30):
        bucket.put_object(Key=f"in/{number}.pdf", Body=b"%PDF" + b"x" * number)
    description = describe(FileSource(path="s3://rows/in", format="binary"), locations)
    source = open_source(description, locations, BlobStore(locations.resolve("s3://rows/blobs")), "staged")
    split = source.splitter().next_split(100, 1 << 30)
    assert isinstance(split, InputSplit)
    rows = source.read(split.slices).to_pylist()
    assert [row["bytes"] for row in rows] == [b"%PDF" + b"x" * number for number in range(30)]
    assert [row["path"] for row in rows] == [f"s3://rows/in/{number}.pdf" for number in range(30)]
    assert all(row["modified_at"] is not None and row["size"] == len(row["bytes"]) for row in rows)


def test_what_is_wrong_in_a_bucket_is_named(bucket: Any, locations: Locations) -> None:
    bucket.put_object(Key="a.jsonl", Body=b'{"id": 1}\n{"id": "x"}\n')
    for path, message in (
        ("s3://rows/a.jsonl", "s3://rows/a.jsonl, line 2: column 'id' holds string here, and int64 before"),
        ("s3://rows/none.jsonl", "there is no file or folder 's3://rows/none.jsonl'"),
        ("s3://rows/*.parquet", "no file matches 's3://rows/.*parquet'"),
        ("s3://other/a.jsonl", "'s3://other/a.jsonl' is outside the folders"),
        ("s3://rows/../other/a.jsonl", "holds '//', '.' or '..'"),
    ):
        with pytest.raises(InvalidSource, match=message):
            describe(FileSource(path=path), locations)


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "jsonl.gz"])
def test_an_object_that_changed_or_vanished_is_named(ending: str, bucket: Any, locations: Locations) -> None:
    bucket.put_object(Key=f"a.{ending}", Body=file_of(ending, ROWS))
    description = describe(FileSource(path=f"s3://rows/a.{ending}"), locations)
    blobs = BlobStore(locations.resolve("s3://rows/blobs"))
    bucket.put_object(Key=f"a.{ending}", Body=file_of(ending, ROWS[:1500]))
    with pytest.raises(InvalidSource, match=f"s3://rows/a.{ending} changed since the job was submitted"):
        open_source(description, locations, blobs, "staged").splitter().next_split(10, 1000)
    bucket.delete_objects(Delete={"Objects": [{"Key": f"a.{ending}"}]})
    with pytest.raises(InvalidSource, match=f"s3://rows/a.{ending} does not exist"):
        open_source(description, locations, blobs, "staged").splitter().next_split(10, 1000)


def test_an_object_that_is_written_again_while_it_is_read_is_named(bucket: Any, locations: Locations) -> None:
    data = file_of("jsonl", ROWS)
    bucket.put_object(Key="a.jsonl", Body=data)
    description = describe(FileSource(path="s3://rows/a.jsonl"), locations)
    source = open_source(description, locations, BlobStore(locations.resolve("s3://rows/blobs")), "staged")
    split = source.splitter().next_split(100, 1 << 30)
    assert isinstance(split, InputSplit)
    assert source.read(split.slices).to_pylist() == ROWS[:100]
    bucket.put_object(Key="a.jsonl", Body=data[::-1])  # of the same size, perhaps in the same second
    with pytest.raises(InvalidSource, match=r"s3://rows/a\.jsonl changed since the job .*: it was written again"):
        source.read(split.slices)


def test_uploaded_parts_in_a_bucket_are_read(bucket: Any, locations: Locations) -> None:  # noqa: ARG001  # it is there
    blobs = BlobStore(locations.resolve("s3://rows/blobs"))
    for number in range(4):
        table = pa.Table.from_pylist(ROWS[number * 500 : (number + 1) * 500])
        blobs.put_table(f"uploads/upl-1/part-{number:08d}.arrow", table)
    description = describe_upload(blobs, "upl-1", 4)
    source = open_source(description, Locations([]), blobs, "unused")
    split = source.splitter().next_split(10_000, 1 << 30)
    assert isinstance(split, InputSplit)
    assert source.read(split.slices).to_pylist() == ROWS
