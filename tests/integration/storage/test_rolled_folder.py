"""Outputs that are written roll by roll, over a local folder and over S3 on a real server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from batchmill.errors import InvalidOutput, StorageError
from batchmill.jobs.files import OutputSpec
from batchmill.jobs.job import JobState
from batchmill.sinks import Manifest, ManifestPart, open_publisher, open_rolled
from batchmill.sinks.rolled_folder import roll_name
from batchmill.storage.blobs import BlobStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.sinks import RolledFolder
    from batchmill.storage.locations import Locations

SCHEMA = pa.schema([("n", pa.int64())])


@pytest.fixture
def output(place: tuple[str, Locations]) -> Callable[[str], RolledFolder]:
    """Opens the one output for a job, as another process would."""
    uri, locations = place
    return lambda job_id: open_rolled(OutputSpec(path=f"{uri}/out"), job_id, locations)


def files_in(place: tuple[str, Locations], folder: str) -> list[str]:
    return BlobStore(place[1].resolve(f"{place[0]}/{folder}")).list()


def write(folder: RolledFolder, roll: int, first: int) -> ManifestPart:
    rows = pa.table({"n": range(first, first + 10)}, schema=SCHEMA)
    part = folder.write_file(roll_name(roll), 0, SCHEMA, [rows], 10)
    fields = {"job": "job-1", "state": JobState.RUNNING, "operator": "echo", "format": "parquet", "columns": ()}
    folder.write_manifest(
        roll_name(roll), Manifest(rows=10, parts=(part,), created_at=1, finished_at=2, roll=roll, **fields)
    )
    return part


def test_a_roll_that_is_written_again_is_the_same_file(
    place: tuple[str, Locations], output: Callable[[str], RolledFolder]
) -> None:
    output("job-1").take(None)
    output("job-1").take(None)
    assert files_in(place, "out") == [], "readers find files with rows, and nothing else"
    first = write(output("job-1"), 0, 0)
    assert write(output("job-1"), 0, 0) == first
    second = write(output("job-1"), 1, 10)
    assert files_in(place, "out") == [first.name, second.name]
    store = BlobStore(place[1].resolve(f"{place[0]}/out.manifests"))
    manifest = Manifest.parse(store.get("00000001.json").to_pybytes(), "")
    assert (manifest.roll, manifest.parts) == (1, (second,))


def test_a_folder_is_one_jobs_until_its_end_and_then_that_of_the_one_that_continues_it(
    place: tuple[str, Locations], output: Callable[[str], RolledFolder], blobs: BlobStore
) -> None:
    output("job-1").take(None)
    for follows in (None, "job-1"):
        with pytest.raises(InvalidOutput, match="taken by job-1"):
            output("job-2").take(follows)
    with pytest.raises(InvalidOutput, match="taken by job-1"):
        open_publisher(OutputSpec(path=f"{place[0]}/out"), "job-3", place[1], blobs).prepare()
    write(output("job-1"), 0, 0)
    output("job-1").close(1)
    output("job-1").close(5)
    with pytest.raises(InvalidOutput, match="has the rolls of job-1"):
        output("job-2").take(None)
    following = output("job-2")
    following.take("job-1")
    assert following.first_roll() == 1
    with pytest.raises(StorageError, match="no longer that of job-1"):
        output("job-1").first_roll()
    following.release()
    output("job-4").take("job-1")
    assert output("job-4").first_roll() == 1


def test_a_folder_that_is_not_used_after_all_is_left_as_it_was(
    place: tuple[str, Locations], output: Callable[[str], RolledFolder]
) -> None:
    folder = output("job-1")
    folder.take(None)
    folder.release()
    assert files_in(place, "out") + files_in(place, "out.manifests") == []
    output("job-2").take(None)


def test_a_folder_with_files_is_refused(place: tuple[str, Locations], output: Callable[[str], RolledFolder]) -> None:
    store = BlobStore(place[1].resolve(f"{place[0]}/out"))
    store.put("mine.parquet", b"x")
    with pytest.raises(InvalidOutput, match="not empty"):
        output("job-1").take(None)
    assert store.list() == ["mine.parquet"]
