"""The disk or the bucket fails under a running job: nothing half-written is seen, and the work is done again."""

from __future__ import annotations

import json
import re
import resource
import secrets
from typing import TYPE_CHECKING

import boto3
import psutil
import pytest
from moto.server import ThreadedMotoServer

import batchmill
from support.cluster import Cluster, manifest
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from batchmill import Job

ROWS = 300
NBYTES = 4096  # a row: the results of a shard do not fit below LIMIT
LIMIT = 128 * 1024
RETRY = batchmill.RetryPolicy(max_attempts=100, backoff_s=0.1, backoff_max_s=0.5)


class SmallDisk:
    """The workers' disk as they see it: no file of theirs grows beyond a limit, which `heal` lifts."""

    def __init__(self, cluster: Cluster) -> None:
        self._slots = [psutil.Process(slot.pid) for slot in cluster.slots()]
        self._limit(LIMIT)

    def heal(self) -> None:
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, soft: int) -> None:
        for slot in self._slots:
            slot.rlimit(psutil.RLIMIT_FSIZE, (soft, resource.RLIM_INFINITY))


def submit(cluster: Cluster, output: object, retry: batchmill.RetryPolicy = RETRY) -> Job:
    rows = [{"id": n} for n in range(ROWS)]
    spec = {"path": str(output), "format": "jsonl"}
    return cluster.clients["a"].submit("wordy", rows=rows, params={"nbytes": NBYTES}, output=spec, retry=retry)


def check(found: list[dict[str, object]]) -> None:
    assert found == [{"id": n, "text": str(n).rjust(NBYTES, ".")} for n in range(ROWS)]


def test_a_full_disk_is_told_with_its_place_and_the_job_finishes_when_there_is_room(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    running = cluster().start(slots=(2,))
    disk, out = SmallDisk(running), tmp_path / "out"
    job = submit(running, out)
    until(lambda: running.log("worker-1").count("is requeued") >= 3, "some attempts that fail")
    assert re.search(rf"could not write {re.escape(str(out))}/part-\S+: .*[Ff]ile too large", running.log("worker-1"))
    assert [path.name for path in out.iterdir() if path.name.startswith("part-")] == []
    assert job.status().rows_dead == 0
    disk.heal()
    check(list(job.results()))
    job.wait(timeout=GRACE_S)
    parts = [part["name"] for part in manifest(out)["parts"]]
    assert sorted(path.name for path in out.iterdir()) == parts
    check([json.loads(line) for part in parts for line in (out / part).read_text().splitlines()])


def test_a_disk_that_stays_full_fails_the_job_with_what_happened_where(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    running = cluster().start(slots=(1,))
    SmallDisk(running)
    job = submit(running, tmp_path / "out", batchmill.RetryPolicy(max_attempts=2, backoff_s=0.1))
    with pytest.raises(
        batchmill.JobFailed, match=rf"could not write {re.escape(str(tmp_path))}/out/part-\S+: .*too large"
    ):
        job.wait(timeout=GRACE_S)
    assert [part["rows"] for part in manifest(tmp_path / "out")["parts"]] == [0]


class Bucket:
    """A bucket of an S3 server that can be stopped and started again with all that is in it."""

    def __init__(self) -> None:
        self.name = f"bucket-{secrets.token_hex(4)}"
        self._server = ThreadedMotoServer(port=0, verbose=False)
        self._server.start()
        host, self._port = self._server.get_host_and_port()
        self.endpoint = f"http://{host}:{self._port}"
        self._client = boto3.client("s3", endpoint_url=self.endpoint, region_name="us-east-1")
        self._client.create_bucket(Bucket=self.name)

    def names(self) -> list[str]:
        found = self._client.list_objects_v2(Bucket=self.name).get("Contents", [])
        return sorted(item["Key"] for item in found)

    def read(self, name: str) -> str:
        return str(self._client.get_object(Bucket=self.name, Key=name)["Body"].read().decode())

    def go(self) -> None:
        self._server.stop()

    def come_back(self) -> None:
        self._server = ThreadedMotoServer(port=self._port, verbose=False)
        self._server.start()

    def close(self) -> None:
        self._client.close()
        self._server.stop()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    made = Bucket()
    yield made
    made.close()


def test_a_bucket_that_goes_away_and_comes_back_costs_nothing(
    cluster: Callable[..., Cluster], bucket: Bucket, tmp_path: Path
) -> None:
    running = cluster(S3_ENDPOINT=bucket.endpoint, S3_REGION="us-east-1").start(slots=(1,))
    gate = tmp_path / "gate"
    rows, spec = [{"id": n} for n in range(ROWS)], {"path": f"s3://{bucket.name}/out", "format": "jsonl"}
    client = running.clients["a"]
    job = client.submit("gated", rows=rows, params={"gate": str(gate)}, output=spec, carry=["id"], retry=RETRY)
    until((tmp_path / "gate.started").exists, "the first row")
    bucket.go()
    gate.touch()
    until(lambda: "is requeued" in running.log("worker-1"), "an attempt that fails")
    assert f"s3://{bucket.name}/out/" in running.log("worker-1")
    bucket.come_back()
    assert [row["id"] for row in job.results()] == list(range(ROWS))
    job.wait(timeout=GRACE_S)
    found = json.loads(bucket.read("out.manifest.json"))
    parts = [f"out/{part['name']}" for part in found["parts"]]
    assert [name for name in bucket.names() if name.startswith("out/part-")] == parts
    assert [json.loads(line)["id"] for part in parts for line in bucket.read(part).splitlines()] == list(range(ROWS))
