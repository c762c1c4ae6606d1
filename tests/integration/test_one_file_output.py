"""An output that is one file: merged from the parts when the job has completed, and readable by everybody's tools."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill.errors import InvalidOutput, InvalidRequest, JobCancelled
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from pathlib import Path

    import batchmill

ROWS = 4000
IDS = list(range(ROWS))


def _source(folder: Path) -> str:
    """Four files of rows, so that there are four shards at least; returns their pattern."""
    folder.mkdir()
    for number in range(4):
        ids = IDS[number * 1000 : (number + 1) * 1000]
        table = pa.table(
            {"id": ids, "as": ["int" if number else "none"] * 1000, "kind": pa.array(["a"] * 1000).dictionary_encode()}
        )
        pq.write_table(table, folder / f"rows-{number}.parquet")
    return f"{folder}/*.parquet"


def _ids(path: Path) -> list[int]:
    if path.suffix == ".jsonl":
        return [json.loads(line)["id"] for line in path.read_text().splitlines()]
    table = pq.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(str(path)).read_all()
    ids: list[int] = table["id"].to_pylist()
    return ids


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "arrow"])
def test_a_path_with_a_files_ending_becomes_one_file_with_all_rows_in_order(
    client: batchmill.Client, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"out.{ending}"
    job = client.submit("drift", source=_source(tmp_path / "in"), output=str(path)).wait(timeout=GRACE_S)
    assert _ids(path) == IDS
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["in", path.name]
    table = job.to_table()
    assert table["id"].to_pylist() == IDS
    assert table["value"].to_pylist() == [None] * 1000 + [1] * 3000


def test_a_file_that_exists_or_is_taken_is_refused_and_left_alone(client: batchmill.Client, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    path.write_bytes(b"mine")
    with pytest.raises(InvalidOutput, match=r"out\.parquet exists"):
        client.submit("echo", [{"id": 1}], output=str(path))
    assert path.read_bytes() == b"mine"
    with pytest.raises(InvalidRequest, match="ends like a parquet file, and the format is jsonl"):
        client.submit("echo", [{"id": 1}], output={"path": str(path), "format": "jsonl"})
    path.unlink()
    gate = tmp_path / "gate"
    job = client.submit("gated", [{"id": 1}], params={"gate": str(gate)}, output=str(path))
    with pytest.raises(InvalidOutput, match="is taken by another job"):
        client.submit("echo", [{"id": 1}], output=str(path))
    gate.touch()
    job.wait(timeout=GRACE_S)
    assert _ids(path) == [1]


def test_a_job_that_does_not_complete_leaves_no_file(client: batchmill.Client, tmp_path: Path) -> None:
    path = tmp_path / "out.parquet"
    job = client.submit("gated", [{"id": 1}], params={"gate": str(tmp_path / "gate")}, output=str(path))
    job.cancel()
    (tmp_path / "gate").touch()
    with pytest.raises(JobCancelled):
        job.wait(timeout=GRACE_S)
    assert not path.exists()
    left = [entry.name for entry in tmp_path.iterdir() if entry.name.startswith("out")]
    assert left == [], "the marker is gone too"


def test_a_replay_puts_its_rows_into_the_file(client: batchmill.Client, tmp_path: Path) -> None:
    path, cure = tmp_path / "out.parquet", tmp_path / "cure"
    rows = [{"id": number} for number in range(200)]
    job = client.submit("reluctant", rows, params={"cure": str(cure)}, output=str(path)).wait(timeout=GRACE_S)
    assert _ids(path) == [number for number in range(200) if number % 5]
    cure.touch()
    job.replay().wait(timeout=GRACE_S)
    assert _ids(path) == list(range(200))


def test_a_job_without_rows_makes_a_file_with_its_columns(client: batchmill.Client, tmp_path: Path) -> None:
    path, schema = tmp_path / "out.parquet", pa.schema([("id", pa.int64())])
    client.submit("echo", schema.empty_table(), output=str(path)).wait(timeout=GRACE_S)
    assert pq.read_table(path).schema == schema
