"""What sinks promise, over a local folder and over S3 on a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from batchmill.errors import InvalidOutput, StaleToken
from batchmill.job import JobState, OutputSpec
from batchmill.shard import ShardId, format_shard_id
from batchmill.sinks import Manifest, ManifestPart, Part, Sink, columns_of, open_sink
from batchmill.storage.blobs import BlobStore

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill.storage.locations import Locations

TABLE = pa.table(
    {
        "id": pa.array([3, 1, 2], pa.int16()),
        "text": ["b", None, "é"],
        "vector": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float32(), 2)),
    }
)


@pytest.mark.parametrize("form", ["parquet", "jsonl", None])
def test_parts_read_back_and_the_manifest_puts_them_in_order(
    place: tuple[str, Locations], blobs: BlobStore, form: Any
) -> None:
    sink = sink_at(place, blobs, form)
    sink.prepare()
    written = {path: sink.write(ShardId(path), 1, TABLE) for path in ((10,), (2, 1), (2, 0), (1,))}
    sink.publish(manifest_of(sink, written))
    manifest = Manifest.read(sink.location)
    assert [part.shard for part in manifest.parts] == ["1", "2.0", "2.1", "10"]
    assert manifest.rows == 12
    for part in manifest.parts:
        assert sink.read(part.name).schema == TABLE.schema
        assert sink.read(part.name).to_pylist() == TABLE.to_pylist()


def test_publishing_leaves_each_row_once_and_nothing_else(place: tuple[str, Locations], blobs: BlobStore) -> None:
    sink = sink_at(place, blobs, "parquet")
    sink.prepare()
    sink.write(ShardId((0,)), 1, pa.table({"id": [0]}))  # lost its lease, and the race
    winners = {(number,): sink.write(ShardId((number,)), 2, pa.table({"id": [number]})) for number in range(3)}
    sink.write(ShardId((2,)), 3, pa.table({"id": [2]}))
    sink.publish(manifest_of(sink, winners))
    names = [part.name for part in winners.values()]
    assert BlobStore(sink.location).list() == ["_manifest.json", *names]
    folder = ds.dataset(sink.location.path, filesystem=sink.location.filesystem, format="parquet")
    assert sorted(folder.to_table()["id"].to_pylist()) == [0, 1, 2]


def test_publishing_lines_leaves_the_schemas_of_its_parts_only(place: tuple[str, Locations], blobs: BlobStore) -> None:
    sink = sink_at(place, blobs, "jsonl")
    sink.prepare()
    sink.delete(sink.write(ShardId((0,)), 1, TABLE).name)
    sink.write(ShardId((0,)), 2, TABLE)
    sink.publish(manifest_of(sink, {(0,): sink.write(ShardId((0,)), 3, TABLE)}))
    names = ["_manifest.json", "_schemas/part-00000000-a3.arrow", "part-00000000-a3.jsonl"]
    assert BlobStore(sink.location).list() == names


def test_a_part_that_comes_too_late_is_taken_back(place: tuple[str, Locations], blobs: BlobStore) -> None:
    sink, late = (sink_at(place, blobs, "parquet") for _ in range(2))
    sink.prepare()
    sink.publish(manifest_of(sink, {(0,): sink.write(ShardId((0,)), 1, TABLE)}))
    with pytest.raises(StaleToken, match="published"):
        late.write(ShardId((0,)), 2, TABLE)
    assert BlobStore(sink.location).list() == ["_manifest.json", "part-00000000-a1.parquet"]


def test_a_folder_is_taken_by_one_job_only_and_given_back(place: tuple[str, Locations], blobs: BlobStore) -> None:
    first, second = (sink_at(place, blobs, "parquet", job) for job in ("job-1", "job-2"))
    first.prepare()
    first.prepare()
    with pytest.raises(InvalidOutput, match="taken by job-1"):
        second.prepare()
    second.release()
    with pytest.raises(InvalidOutput, match="taken by job-1"):
        second.prepare()
    first.release()
    second.prepare()


def test_a_folder_that_holds_something_is_refused_and_its_entries_named(
    place: tuple[str, Locations], blobs: BlobStore
) -> None:
    sink = sink_at(place, blobs, "parquet")
    for name in ("d.txt", "a.txt", "b/x", "c.txt"):
        BlobStore(sink.location).put(name, b"")
    with pytest.raises(InvalidOutput, match=r"is not empty: a\.txt, b, c\.txt and 1 more\."):
        sink.prepare()
    assert BlobStore(sink.location).list() == ["a.txt", "b/x", "c.txt", "d.txt"]


def test_the_results_of_an_earlier_job_are_not_overwritten(place: tuple[str, Locations], blobs: BlobStore) -> None:
    sink = sink_at(place, blobs, "parquet")
    sink.prepare()
    sink.publish(manifest_of(sink, {}))
    with pytest.raises(InvalidOutput, match=r"_manifest\.json"):
        sink_at(place, blobs, "parquet", "job-2").prepare()


def test_an_object_or_file_is_no_output_folder(place: tuple[str, Locations], blobs: BlobStore) -> None:
    uri, locations = place
    BlobStore(locations.resolve(uri)).put("out", b"x")
    with pytest.raises(InvalidOutput, match="is a file"):
        sink_at(place, blobs, "parquet").prepare()


def test_an_output_in_a_missing_bucket_is_refused_with_the_cause(bucket: tuple[str, Locations], tmp_path: Path) -> None:
    locations = bucket[1]
    blobs = BlobStore.open(str(tmp_path), locations)
    with pytest.raises(InvalidOutput, match=r"could not write s3://nowhere/out.*does not exist"):
        sink_at(("s3://nowhere", locations), blobs, "parquet").prepare()


def sink_at(place: tuple[str, Locations], blobs: BlobStore, form: Any, job: str = "job-1") -> Sink:
    uri, locations = place
    return open_sink(OutputSpec(path=f"{uri}/out", format=form) if form else None, job, blobs, locations)


def manifest_of(sink: Sink, written: dict[tuple[int, ...], Part], job: str = "job-1") -> Manifest:
    parts = tuple(
        ManifestPart(name=part.name, rows=part.rows, bytes=part.bytes, shard=format_shard_id(ShardId(path)))
        for path, part in sorted(written.items())
    )
    return Manifest(
        job=job,
        state=JobState.COMPLETED,
        operator="echo",
        format=sink.format,
        rows=sum(part.rows for part in parts),
        columns=columns_of(TABLE.schema),
        parts=parts,
        created_at=1.0,
        finished_at=2.0,
    )
