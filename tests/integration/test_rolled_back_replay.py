"""A ledger that is rolled back behind a replay into an output folder finds the parts that the replay has left there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from redis import Redis

from batchmill import Stage
from support.cluster import Cluster, manifest
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("rolled-back"), "mill_operators") as made:
        yield made.start()


@pytest.fixture
def redis(cluster: Cluster) -> Iterator[Redis]:
    with Redis(unix_socket_path=str(cluster.socket)) as made:
        yield made


def copied(redis: Redis, job_id: str) -> dict[Any, Any]:
    """What the ledger has of a job."""
    return {key: redis.dump(key) for key in redis.keys(f"*{job_id}*")}


def roll_back(redis: Redis, job_id: str, copy: dict[Any, Any]) -> None:
    """Put back what the ledger had of a job."""
    redis.delete(*redis.keys(f"*{job_id}*"))
    for key, content in copy.items():
        redis.restore(key, 0, content, replace=True)


@pytest.mark.slow
@pytest.mark.parametrize("output", ["out", "out.parquet", "lines"])
def test_rows_that_a_lost_replay_put_in_place_stay_and_the_next_replay_completes(
    cluster: Cluster, redis: Redis, tmp_path: Path, output: str
) -> None:
    source, cure = tmp_path / "in.parquet", tmp_path / "cure"
    rows = [{"id": n} for n in range(200)]
    pq.write_table(pa.Table.from_pylist(rows), source)
    target = {"path": str(tmp_path / output), "format": "jsonl" if output == "lines" else "parquet"}
    client = cluster.clients["a"]
    job = client.submit("reluctant", source=source, params={"cure": str(cure)}, output=target).wait(GRACE_S)
    copy = copied(redis, job.id)
    cure.touch()
    job.replay([5, 190]).wait(GRACE_S)
    roll_back(redis, job.id, copy)

    found = [row["id"] for row in job.results()]
    assert set(found) >= {n for n in range(200) if n % 5}
    assert found == sorted(found)

    job.replay().wait(GRACE_S)
    assert [row["id"] for row in job.results()] == list(range(200))
    assert (job.status().rows_done, job.status().rows_dead) == (200, 0)
    assert job.dead_letter_counts() == {}
    if output == "out":
        parts = manifest(tmp_path / output)["parts"]
        assert sum(pq.read_table(tmp_path / output / part["name"]).num_rows for part in parts) == 200
        assert {path.name for path in (tmp_path / output).glob("part-*")} == {part["name"] for part in parts}


@pytest.mark.parametrize("stage", ["first", "last"])
def test_the_same_of_a_chain(cluster: Cluster, redis: Redis, tmp_path: Path, stage: str) -> None:
    source, cure = tmp_path / "in.parquet", tmp_path / "cure"
    pq.write_table(pa.table({"id": range(200)}), source)
    stages = [Stage("reluctant", cure=str(cure)), Stage("echo")]
    stages = stages if stage == "first" else stages[::-1]
    client = cluster.clients["a"]
    job = client.submit(source=source, stages=stages, output=tmp_path / "out").wait(GRACE_S)
    copy = copied(redis, job.id)
    cure.touch()
    job.replay([5, 190]).wait(GRACE_S)
    roll_back(redis, job.id, copy)
    assert {row["id"] for row in job.results()} >= {n for n in range(200) if n % 5}

    job.replay([100]).wait(GRACE_S)  # another part than those of the lost replay
    job.replay().wait(GRACE_S)
    assert [row["source_row"] for row in job.results()] == list(range(200))
    assert [(one.rows_done, one.rows_dead) for one in job.status().stages] == [(200, 0), (200, 0)]
    parts = manifest(tmp_path / "out")["parts"]
    assert sum(pq.read_table(tmp_path / "out" / part["name"]).num_rows for part in parts) == 200
