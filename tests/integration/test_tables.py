"""Jobs over tables of Delta Lake and Iceberg, in a real service and on an object store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from moto.server import ThreadedMotoServer
from pyiceberg.catalog.memory import InMemoryCatalog

from batchmill.errors import InvalidOutput, JobCancelled
from batchmill.jobs.files import FileSource
from batchmill.sources import describe, open_source
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from support.outputs import manifest_path
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import batchmill

ROWS = 500
FREE = 400  # rows that need not wait at the gate


def table_of(start: int, stop: int) -> pa.Table:
    return pa.table({"id": range(start, stop), "part": [n % 3 for n in range(start, stop)]})


def ids(job: batchmill.Job) -> list[int]:
    return sorted(row["id"] for row in job.results())


def test_a_job_reads_the_version_at_which_it_was_submitted(client: batchmill.Client, tmp_path: Path) -> None:
    path = tmp_path / "t"
    write_deltalake(path, table_of(0, ROWS), partition_by="part")
    gate = tmp_path / "gate"
    job = client.submit("gated", source=path, params={"gate": str(gate), "first": 10})
    until(lambda: job.status().shards_running > 0, "a shard that runs")
    write_deltalake(path, table_of(ROWS, ROWS + 5), mode="overwrite")
    gate.touch()
    assert ids(job) == list(range(ROWS))
    request = job.status().request
    assert request is not None
    assert isinstance(request.source, FileSource)
    assert request.source.table_version == 0
    assert ids(client.submit("echo", source=path)) == list(range(ROWS, ROWS + 5))
    assert ids(client.submit("echo", source={"path": path, "table_version": 0})) == list(range(ROWS))


def test_an_output_is_resumed_at_its_version(client: batchmill.Client, tmp_path: Path) -> None:
    path, output, gate = tmp_path / "t", tmp_path / "out", tmp_path / "gate"
    write_deltalake(path, table_of(0, ROWS))
    options: dict[str, Any] = {"output": output, "params": {"gate": str(gate), "first": FREE}}
    job = client.submit("gated", source=path, **options)
    until(lambda: job.status().shards_done > 0, "a shard done")
    job.cancel()
    gate.touch()
    with pytest.raises(JobCancelled):
        job.wait(timeout=GRACE_S)
    write_deltalake(path, table_of(ROWS, ROWS + 5), mode="append")
    with pytest.raises(InvalidOutput, match="it read version 0 of its table, which is 1 now"):
        client.submit("gated", source=path, **options)
    resumed = client.submit("gated", source={"path": path, "table_version": 0}, **options).wait(timeout=GRACE_S)
    assert resumed.status().resumed_from == job.id
    parts = json.loads(manifest_path(output).read_text())["parts"]
    assert [row for part in parts for row in pq.read_table(output / part["name"])["id"].to_pylist()] == list(
        range(ROWS)
    )


def test_an_iceberg_table_is_read_by_a_job(client: batchmill.Client, tmp_path: Path) -> None:
    catalog = InMemoryCatalog("test", warehouse=f"file://{tmp_path}/house")
    catalog.create_namespace("n")
    table = catalog.create_table("n.t", table_of(0, 1).schema)
    table.append(table_of(0, ROWS))
    table.delete("id < 10")
    job = client.submit("echo", source=str(table.metadata_location))
    assert ids(job) == list(range(10, ROWS))
    catalog.engine.dispose()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def test_tables_in_an_object_store_are_read(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    store = boto3.resource("s3", endpoint_url=endpoint, region_name="us-east-1")
    store.create_bucket(Bucket="lake")
    write_deltalake(tmp_path / "delta", table_of(0, 50), partition_by="part")
    write_deltalake(tmp_path / "delta", table_of(50, 60), mode="append")
    keys = {"s3.access-key-id": "test", "s3.secret-access-key": "test"}
    options = {"s3.endpoint": endpoint, "s3.region": "us-east-1", **keys}
    catalog = InMemoryCatalog("test", warehouse="s3://lake/house", **options)
    catalog.create_namespace("n")
    table = catalog.create_table("n.t", table_of(0, 1).schema)
    table.append(table_of(0, 60))
    for file in (tmp_path / "delta").rglob("*"):
        if file.is_file():
            store.Bucket("lake").upload_file(str(file), str(file.relative_to(tmp_path)))
    locations = Locations(["s3://lake"], s3_endpoint=endpoint, s3_region="us-east-1")
    blobs = BlobStore.open(str(tmp_path / "blobs"), Locations(UNRESTRICTED))
    for path in ("s3://lake/delta", str(table.metadata_location)):
        assert path.startswith("s3://")
        source = open_source(describe(FileSource(path=path), locations), locations, blobs, "staged")
        with source.splitter() as splitter:
            rows = [row for split in splitter.available(20, 1 << 30) for row in source.read(split.slices).to_pylist()]
        assert sorted(row["id"] for row in rows) == list(range(60))
        assert all(row["part"] == row["id"] % 3 for row in rows)
    catalog.engine.dispose()
    store.Bucket("lake").objects.all().delete()
    store.Bucket("lake").delete()
    store.meta.client.close()
