"""What every `Publisher` promises, over a local folder and over S3 on a real server."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from pyarrow import fs

from batchmill.errors import InvalidOutput, StaleToken, StorageError
from batchmill.jobs.shard import ShardId
from batchmill.storage.blobs import BlobStore
from support.outputs import JobOutput, file_names, job_output

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchmill.storage.locations import Locations

TABLE = pa.table({"id": pa.array([3, 1, 2], pa.int16()), "text": ["b", None, "é"]})


@pytest.fixture
def output(place: tuple[str, Locations], blobs: BlobStore) -> Callable[..., JobOutput]:
    """Opens the one output, as another process or job would each time."""

    def open_output(job_id: str = "job-1", output_format: Any = "parquet") -> JobOutput:
        return job_output(f"{place[0]}/out", place[1], blobs, job_id=job_id, output_format=output_format)

    return open_output


@pytest.fixture
def folder(place: tuple[str, Locations]) -> BlobStore:
    """The files of that output."""
    return BlobStore(place[1].resolve(f"{place[0]}/out"))


def rows_in(folder: BlobStore, s3_url: str) -> list[int]:
    """The ids that another library finds in the folder."""
    reader = fs.LocalFileSystem()
    if not folder.root.is_local:
        reader = fs.S3FileSystem(endpoint_override=s3_url.removeprefix("http://"), scheme="http", region="us-east-1")
    files = ds.dataset(folder.root.path, filesystem=reader, format="parquet")
    return sorted(files.to_table()["id"].to_pylist())


@pytest.mark.parametrize("output_format", ["parquet", "jsonl"])
def test_the_manifest_puts_the_parts_in_order(output: Callable[..., JobOutput], output_format: Any) -> None:
    job = output(output_format=output_format)
    job.publisher.prepare()
    written = {path: job.write(path, 1, TABLE) for path in ((10,), (2, 1), (2, 0), (1,))}
    published = job.manifest(*(written[path] for path in sorted(written)), schema=TABLE.schema)
    job.publisher.publish(published)
    manifest = output(output_format=output_format).publisher.published()
    assert manifest == published
    assert [part.shard for part in manifest.parts] == ["1", "2.0", "2.1", "10"]
    for path in written:
        assert job.results.read(ShardId(path), 1).equals(TABLE)


def test_publishing_leaves_each_row_once_and_nothing_else(
    output: Callable[..., JobOutput], folder: BlobStore, s3_url: str
) -> None:
    job = output()
    job.publisher.prepare()
    job.write((0,), 1, pa.table({"id": [0]}))  # lost its lease, and the race
    winners = [job.write((number,), 2, pa.table({"id": [number]})) for number in range(3)]
    job.write((2,), 3, pa.table({"id": [2]}))
    job.publisher.publish(job.manifest(*winners))
    assert folder.list() == [*file_names(winners)]
    assert rows_in(folder, s3_url) == [0, 1, 2]


def test_publishing_lines_leaves_nothing_but_its_parts(output: Callable[..., JobOutput], folder: BlobStore) -> None:
    job = output(output_format="jsonl")
    job.publisher.prepare()
    job.write((0,), 1, TABLE)
    job.results.delete(ShardId((0,)), 1)
    job.write((0,), 2, TABLE)
    job.publisher.publish(job.manifest(job.write((0,), 3, TABLE)))
    assert folder.list() == ["part-00000000-a3.jsonl"]


def test_a_part_that_comes_too_late_is_deleted(output: Callable[..., JobOutput], folder: BlobStore) -> None:
    job = output()
    job.publisher.prepare()
    job.publisher.publish(job.manifest(job.write((0,), 1, TABLE)))
    with pytest.raises(StaleToken, match="published"):
        output().write((0,), 2, TABLE)
    assert folder.list() == ["part-00000000-a1.parquet"]


@pytest.mark.slow
def test_of_two_jobs_that_take_one_output_at_once_exactly_one_gets_it_every_time(
    place: tuple[str, Locations], blobs: BlobStore
) -> None:
    start = threading.Barrier(2)

    def take(output: JobOutput) -> str:
        start.wait()
        try:
            output.publisher.prepare()
        except InvalidOutput:
            return ""
        return output.job_id

    with ThreadPoolExecutor(2) as pool:
        for number in range(60):
            uri = f"{place[0]}/out-{number}"
            outputs = [job_output(uri, place[1], blobs, job_id=job_id) for job_id in ("job-1", "job-2")]
            (winner,) = filter(None, pool.map(take, outputs))
            marker = BlobStore(place[1].resolve(uri)).get("_batchmill.json").to_pybytes()
            assert json.loads(marker)["job"] == winner


def test_an_output_is_taken_by_one_job_only_and_released(output: Callable[..., JobOutput]) -> None:
    first, second = output("job-1").publisher, output("job-2").publisher
    first.prepare()
    first.prepare()
    with pytest.raises(InvalidOutput, match="taken by job-1"):
        second.prepare()
    second.release()
    with pytest.raises(InvalidOutput, match="taken by job-1"):
        second.prepare()
    first.release()
    second.prepare()


def test_a_folder_that_is_not_empty_is_refused_and_its_entries_named(
    output: Callable[..., JobOutput], folder: BlobStore
) -> None:
    for name in ("d.txt", "a.txt", "b/x", "c.txt"):
        folder.put(name, b"")
    with pytest.raises(InvalidOutput, match=r"is not empty: it has a\.txt, b, c\.txt and 1 more\."):
        output().publisher.prepare()
    assert folder.list() == ["a.txt", "b/x", "c.txt", "d.txt"]


def test_the_results_of_an_earlier_job_are_not_overwritten(output: Callable[..., JobOutput]) -> None:
    job = output()
    job.publisher.prepare()
    job.publisher.publish(job.manifest(job.write((0,), 1, TABLE)))
    with pytest.raises(InvalidOutput, match=r"not empty: it has part-00000000-a1\.parquet"):
        output("job-2").publisher.prepare()


def test_a_job_that_resumes_an_output_keeps_its_parts_and_adds_its_own(
    output: Callable[..., JobOutput], folder: BlobStore, s3_url: str
) -> None:
    first, second = output("job-1"), output("job-2")
    first.publisher.prepare()
    done = first.write((0,), 1, pa.table({"id": [0]}))
    first.publisher.publish(first.manifest(done))
    second.publisher.reopen()
    with pytest.raises(InvalidOutput, match="taken by job-2"):
        output("job-3").publisher.reopen()
    assert second.results.read(ShardId((0,)), 1).to_pylist() == [{"id": 0}]
    second.publisher.publish(second.manifest(done, second.write((1,), 1, pa.table({"id": [1]}))))
    assert rows_in(folder, s3_url) == [0, 1]
    published = output().publisher.published()
    assert published is not None
    assert published.job == "job-2"


def test_a_replaced_part_counts_once_the_manifest_has_it(
    output: Callable[..., JobOutput], folder: BlobStore, s3_url: str
) -> None:
    job = output()
    job.publisher.prepare()
    parts = [job.write((number,), 1, pa.table({"id": [number]})) for number in range(2)]
    job.publisher.publish(job.manifest(*parts))
    nbytes = output().publisher.replace_part(ShardId((1,)), 2, pa.table({"id": [1, 10]}))
    replaced = job.publisher.part(ShardId((1,)), 2, 2, nbytes)
    assert output().publisher.published() == job.manifest(*parts)
    for _ in range(2):
        output().publisher.update_manifest(job.manifest(parts[0], replaced))
        assert folder.list() == [parts[0].name, replaced.name]
        assert rows_in(folder, s3_url) == [0, 1, 10]


def test_publishing_that_is_done_again_takes_the_leaders_part_and_no_workers(
    output: Callable[..., JobOutput], folder: BlobStore
) -> None:
    job = output()
    job.publisher.prepare()
    for _ in range(2):
        nbytes = output().publisher.replace_part(ShardId((0,)), 0, TABLE)
        part = job.publisher.part(ShardId((0,)), 0, TABLE.num_rows, nbytes)
        job.publisher.publish(job.manifest(part, schema=TABLE.schema))
        with pytest.raises(StaleToken):
            job.write((0,), 1, TABLE)
        assert folder.list() == [part.name]


def test_an_output_whose_job_goes_on_takes_parts_again_and_is_published_again(
    output: Callable[..., JobOutput], folder: BlobStore
) -> None:
    job = output()
    job.publisher.prepare()
    first = job.write((0,), 1, TABLE)
    job.publisher.publish(job.manifest(first, schema=TABLE.schema))
    job.results.reopen()
    assert job.publisher.published() == job.manifest(first, schema=TABLE.schema)
    second = job.write((0,), 2, TABLE)
    job.publisher.publish(job.manifest(second, schema=TABLE.schema))
    assert folder.list() == [second.name]
    output("job-2").publisher.reopen()
    with pytest.raises(StorageError, match="no longer that of job-1"):
        job.results.reopen()


def test_a_manifest_whose_part_is_missing_changes_nothing(
    output: Callable[..., JobOutput], folder: BlobStore, s3_url: str
) -> None:
    job = output()
    job.publisher.prepare()
    part = job.write((0,), 1, pa.table({"id": [0]}))
    job.publisher.publish(job.manifest(part))
    missing = job.publisher.part(ShardId((1,)), 1, 1, 10)
    with pytest.raises(StorageError, match=missing.name):
        job.publisher.update_manifest(job.manifest(part, missing))
    assert output().publisher.published() == job.manifest(part)
    assert rows_in(folder, s3_url) == [0]


def test_an_output_that_was_emptied_or_taken_is_not_updated(output: Callable[..., JobOutput]) -> None:
    job = output()
    job.publisher.prepare()
    with pytest.raises(StorageError, match="no longer that of job-1"):
        job.publisher.update_manifest(job.manifest())
    job.publisher.publish(job.manifest())
    output("job-2").publisher.reopen()
    with pytest.raises(StorageError, match="no longer that of job-1"):
        job.publisher.replace_part(ShardId((0,)), 2, TABLE)


def test_an_object_or_file_is_no_output_folder(output: Callable[..., JobOutput], place: tuple[str, Locations]) -> None:
    BlobStore(place[1].resolve(place[0])).put("out", b"x")
    with pytest.raises(InvalidOutput, match="is a file"):
        output().publisher.prepare()


def test_an_output_in_a_missing_bucket_is_refused_with_the_cause(bucket: tuple[str, Locations], tmp_path: Path) -> None:
    locations = bucket[1]
    blobs = BlobStore.open(str(tmp_path), locations)
    with pytest.raises(InvalidOutput, match=r"could not write s3://nowhere/out.*does not exist"):
        job_output("s3://nowhere/out", locations, blobs).publisher.prepare()
