"""Attempts whose results are too many, end to end: they commit the first rows of their shard; others run the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchmill
from batchmill import RetryPolicy, Stage
from support.operators.bulky_operators import results_of
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_BYTES, SIZE, ROWS = 40_000, 4_000, 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("partial")


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[batchmill.Client]:
    """A service whose attempts may have few results."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BATCHMILL_MAX_RESULT_BYTES", str(MAX_BYTES))
        modules = ("mill_operators", "tally_operators", "bulky_operators")
        with batchmill.local(workers=2, data_dir=folder / "service", operators=modules) as reached:
            yield reached


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    path = folder / "in.parquet"
    pq.write_table(pa.table({"id": range(ROWS)}), path)
    return path


EXPECTED = [(n, [piece], made["text"]) for n in range(ROWS) for piece, made in enumerate(results_of(n, SIZE))]


def found(job: batchmill.Job) -> list[tuple[int, list[int], str]]:
    return [(row["source_row"], row["source_path"], row["text"]) for row in job.results()]


def parts_of(folder: Path, job: batchmill.Job, stage: int) -> list[Path]:
    """The stored results of a stage, in the order of its rows."""
    return sorted((folder / "service" / "blobs" / "jobs" / job.id / "results" / str(stage)).iterdir())


@pytest.mark.parametrize("fuse", [False, True], ids=["apart", "fused"])
def test_a_shard_with_many_results_is_committed_in_parts(
    client: batchmill.Client, folder: Path, source: Path, *, fuse: bool
) -> None:
    stages = [Stage("bulky", size=SIZE, keep=not fuse), Stage("echo", name="second"), Stage("echo", name="last")]
    job = client.submit(source=source, stages=stages, fuse=fuse).wait(GRACE_S)
    assert found(job) == EXPECTED
    status = job.status()
    assert [one.rows_done for one in status.stages] == [ROWS, len(EXPECTED), len(EXPECTED)]
    assert status.stages[0].rows_filtered == sum(not results_of(n, SIZE) for n in range(ROWS))
    parts = parts_of(folder, job, 2 if fuse else 0)
    assert len(parts) >= len(EXPECTED) * SIZE // MAX_BYTES
    assert max(part.stat().st_size for part in parts) < MAX_BYTES + 4_000


@pytest.mark.parametrize("fuse", [False, True], ids=["apart", "fused"])
def test_a_later_stage_that_makes_much_is_committed_in_parts(
    client: batchmill.Client, folder: Path, source: Path, *, fuse: bool
) -> None:
    stages = [Stage("echo", name="first"), Stage("bulky", size=SIZE), Stage("echo", name="last")]
    job = client.submit(source=source, stages=stages, fuse=fuse).wait(GRACE_S)
    assert found(job) == EXPECTED
    assert max(part.stat().st_size for part in parts_of(folder, job, 2)) < MAX_BYTES + 4_000


@pytest.mark.parametrize("fuse", [False, True], ids=["apart", "fused"])
def test_parts_are_gathered_by_source_row(client: batchmill.Client, source: Path, *, fuse: bool) -> None:
    stages = [
        Stage("echo", name="first"),
        Stage("bulky", size=SIZE, carry=["id"]),
        Stage("echo", name="second", carry=["id", "piece"]),
        Stage("gather", name="gather", mean=["piece"], count="pieces", carry=["id"]),
    ]
    job = client.submit(source=source, stages=stages, fuse=fuse).wait(GRACE_S)
    assert [(row["source_row"], row["id"], row["pieces"]) for row in job.results()] == [
        (n, n, n % 5) for n in range(ROWS) if n % 5
    ]


def test_rows_that_fail_at_first_are_settled_in_their_place(
    client: batchmill.Client, tmp_path: Path, source: Path
) -> None:
    output = tmp_path / "out"
    retry = RetryPolicy(max_attempts=3, backoff_s=0)
    params: dict[str, Any] = {"folder": str(tmp_path), "every": 9, "size": SIZE}
    job = client.submit("hesitant", source=source, params=params, retry=retry, output=output).wait(GRACE_S)
    assert [(row["id"], row["text"]) for row in job.results()] == [(n, str(n).ljust(SIZE, "x")) for n in range(ROWS)]
    assert pq.read_table(output)["id"].to_pylist() == list(range(ROWS))
    assert len(list(output.iterdir())) >= ROWS * SIZE // MAX_BYTES


def test_a_row_that_alone_makes_too_much_fails_and_one_that_makes_a_part_of_its_own_does_not(
    client: batchmill.Client, source: Path
) -> None:
    sizes = {5: 3 * MAX_BYTES, 6: 5 * MAX_BYTES}
    for large, size in sizes.items():
        job = client.submit("bulky", source=source, params={"size": 10, "large": large, "large_size": size}).wait(
            GRACE_S
        )
        letters = job.dead_letters()
        if size < 4 * MAX_BYTES:
            assert list(letters) == []
            assert next(row["text"] for row in job.results() if row["source_row"] == large) == "x" * size
        else:
            (letter,) = letters
            assert (letter.index, letter.row, letter.error_type) == (large, {"id": large}, "TooManyResults")
            assert f"one row may make {4 * MAX_BYTES:,}" in letter.message
            assert large not in {row["source_row"] for row in job.results()}
