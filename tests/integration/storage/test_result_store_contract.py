"""What every `ResultStore` promises: kept by the service or in an output, on a local disk and on a real S3 server."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from batchmill.errors import NotFound, StorageError
from batchmill.jobs.files import OutputSpec
from batchmill.jobs.shard import ShardId
from batchmill.storage.blobs import BlobStore
from batchmill.workspace import Workspace
from support.records import spec_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.jobs.job import JobSpec
    from batchmill.sinks import ResultStore
    from batchmill.storage.locations import Locations

SHARD = ShardId((17, 1))
TABLE = pa.table(
    {
        "id": pa.array([3, 1, 2], pa.int16()),
        "text": ["b", None, "é"],
        "at": pa.array([0, 1, None], pa.timestamp("ms", "UTC")),
        "vector": pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.float32(), 2)),
    }
)


@pytest.fixture(params=[None, "parquet", "jsonl"])
def spec(request: pytest.FixtureRequest, place: tuple[str, Locations]) -> JobSpec:
    """A job whose results stay in the service, or go into an output of that format."""
    output = OutputSpec(path=f"{place[0]}/out", format=request.param) if request.param else None
    return spec_of(operator="echo", output=output)


@pytest.fixture
def open_results(place: tuple[str, Locations], blobs: BlobStore, spec: JobSpec) -> Callable[[], ResultStore]:
    """Opens the results of one accepted job, as another process would each time."""
    workspace = Workspace(blobs, place[1])
    publisher = workspace.open_publisher("job-1", spec)
    if publisher is not None:
        publisher.prepare()
    return lambda: workspace.open_results("job-1", spec, 0)


def ids(values: list[int]) -> pa.Table:
    return pa.table({"id": values})


def test_results_read_back_in_another_process_with_their_order_and_types(
    open_results: Callable[[], ResultStore],
) -> None:
    assert open_results().write(SHARD, 2, TABLE) > 0
    found = open_results().read(SHARD, 2)
    assert found.schema == TABLE.schema
    assert found.to_pylist() == TABLE.to_pylist()


def test_results_without_rows_read_back_with_their_columns(open_results: Callable[[], ResultStore]) -> None:
    open_results().write(SHARD, 1, TABLE.slice(0, 0))
    assert open_results().read(SHARD, 1).schema == TABLE.schema


def test_attempts_and_shards_do_not_disturb_each_other(open_results: Callable[[], ResultStore]) -> None:
    attempts = [(path, token) for path in ((1,), (1, 0), (1, 0, 1), (11,)) for token in (1, 2, 11)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: open_results().write(ShardId(attempts[n][0]), attempts[n][1], ids([n])), range(12)))
    open_results().delete(ShardId((1,)), 1)
    for number, (path, token) in enumerate(attempts[1:], start=1):
        assert open_results().read(ShardId(path), token).to_pylist() == [{"id": number}]
    with pytest.raises(NotFound):
        open_results().read(ShardId((1,)), 1)


def test_an_attempt_that_writes_again_replaces_its_results(open_results: Callable[[], ResultStore]) -> None:
    results = open_results()
    results.write(SHARD, 1, ids([1, 2]))
    results.write(SHARD, 1, ids([3]))
    assert results.read(SHARD, 1).to_pylist() == [{"id": 3}]


def test_deleting_twice_leaves_nothing(
    open_results: Callable[[], ResultStore], blobs: BlobStore, place: tuple[str, Locations]
) -> None:
    everything = BlobStore(place[1].resolve(place[0]))
    before = everything.list()
    results = open_results()
    results.write(SHARD, 1, TABLE)
    assert everything.list() != before
    results.delete(SHARD, 1)
    results.delete(SHARD, 1)
    schema = "jobs/job-1/schemas/000001.schema"
    assert set(blobs.list("jobs")) <= {schema}, "only the schema of an output outlives its parts"
    assert [name for name in everything.list() if not name.endswith(schema)] == before


def test_what_was_never_written_is_not_found(open_results: Callable[[], ResultStore]) -> None:
    with pytest.raises(NotFound):
        open_results().read(ShardId((404,)), 1)


def test_damaged_results_are_an_error_that_names_the_file(
    open_results: Callable[[], ResultStore], place: tuple[str, Locations]
) -> None:
    open_results().write(SHARD, 1, TABLE)
    everything = BlobStore(place[1].resolve(place[0]))
    (part,) = [name for name in everything.list() if "part-00000017.00000001-a1." in name and "/parts/" not in name]
    everything.put(part, bytes(everything.get(part))[:-20])
    with pytest.raises(StorageError, match=r"part-00000017\.00000001-a1\."):
        open_results().read(SHARD, 1)


def test_each_stage_and_each_job_has_results_of_its_own(place: tuple[str, Locations], blobs: BlobStore) -> None:
    workspace, spec = Workspace(blobs, place[1]), spec_of(operator="echo")
    stores = [workspace.open_results(job, spec, stage) for job in ("job-1", "job-2") for stage in (0, 1)]
    for number, results in enumerate(stores):
        results.write(SHARD, 1, ids([number]))
    assert [results.read(SHARD, 1).to_pylist() for results in stores] == [[{"id": number}] for number in range(4)]


def test_only_the_last_stage_writes_into_the_output(place: tuple[str, Locations], blobs: BlobStore) -> None:
    workspace = Workspace(blobs, place[1])
    spec = spec_of(operator="echo", output=OutputSpec(path=f"{place[0]}/out"))
    workspace.open_results("job-1", spec, 1).write(SHARD, 1, TABLE)
    assert blobs.list() == ["jobs/job-1/results/1/part-00000017.00000001-a1.arrow"]
