"""Damaged results of jobs of several stages, done again from the source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill import RetryPolicy, Stage
from batchmill.errors import Conflict, DamagedData, InvalidRequest, JobFailed, NotFound
from support.cluster import manifest
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from pathlib import Path

    import batchmill

ROWS = 600


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def parts(folder: Path) -> list[Path]:
    found = sorted(folder.glob("part-*"))
    assert len(found) > 3
    return found


class Chain:
    """Rows that are unfolded, of which some fail until they are cured; behind that a stage that echoes or gathers."""

    def __init__(self, client: batchmill.Client, service: Path, folder: Path) -> None:
        self.client, self.folder, self.source = client, folder, folder / "in.parquet"
        self.blobs = service / "blobs" / "jobs"
        pq.write_table(pa.table({"id": range(ROWS)}), self.source)

    def run(self, last: Stage, **options: Any) -> batchmill.Job:
        once = RetryPolicy(max_attempts=1)
        stages = [
            Stage("unfold", name="b", cure=str(self.folder / "b"), keep=True, retry=once),
            Stage("fails_pieces", name="c", cure=str(self.folder / "c"), every=7, retry=once),
            last,
        ]
        return self.client.submit(source=self.source, stages=stages, **options).wait(GRACE_S)

    def results(self, job: batchmill.Job, stage: int) -> Path:
        return self.blobs / job.id / "results" / str(stage)


@pytest.fixture
def chain(client: batchmill.Client, service_folder: Path, tmp_path: Path) -> Chain:
    return Chain(client, service_folder, tmp_path)


@pytest.mark.parametrize("output", [False, True], ids=["service", "output"])
def test_damaged_results_of_the_last_stage_are_as_before_and_failed_rows_stay_failed(
    chain: Chain, *, output: bool
) -> None:
    folder = chain.folder / "out"
    job = chain.run(Stage("echo", name="d"), output=folder if output else None)
    before, dead = list(job.results()), {letter.path for letter in job.dead_letters()}
    assert dead
    (chain.folder / "b").touch()  # what failed would not now
    (chain.folder / "c").touch()
    stored = parts(folder if output else chain.results(job, 2))
    stored[0].unlink()
    stored[2].unlink()
    flip(stored[3])
    with pytest.raises((DamagedData, NotFound)):
        list(job.results())
    job.redo().wait(GRACE_S)
    assert list(job.results()) == before
    assert {letter.path for letter in job.dead_letters()} == dead
    if output:
        rows = [row for part in manifest(folder)["parts"] for row in pq.read_table(folder / part["name"]).to_pylist()]
        assert rows == before
    with pytest.raises(InvalidRequest, match="damaged or missing"):
        job.redo()
    job.replay(stage="b").wait(GRACE_S)
    job.replay(stage="c").wait(GRACE_S)
    assert [(row["source_row"], row["source_path"]) for row in job.results()] == [
        (n, [piece]) for n in range(ROWS) for piece in range(n % 4)
    ]


def test_damaged_results_that_are_kept_and_gathered_are_as_before(chain: Chain) -> None:
    (chain.folder / "b").touch()
    job = chain.run(Stage("gather", count="n", mean=["of"]))
    before = list(job.results())
    flip(parts(chain.results(job, 0))[1])
    parts(chain.results(job, 2))[-1].unlink()
    job.redo().wait(GRACE_S)
    assert list(job.results()) == before
    (chain.folder / "c").touch()
    again = chain.client.rerun(job, "c").wait(GRACE_S)
    assert [(row["source_row"], row["n"]) for row in again.results()] == [(n, n % 4) for n in range(ROWS) if n % 4]


def test_nothing_is_replaced_if_other_rows_fail_this_time(chain: Chain) -> None:
    (chain.folder / "b").touch()
    job = chain.run(Stage("echo", name="d"))
    before = list(job.results())
    parts(chain.results(job, 2))[1].unlink()
    (chain.folder / "b").unlink()
    with pytest.raises(JobFailed, match="had results failed this time; nothing is replaced"):
        job.redo().wait(GRACE_S)
    (chain.folder / "b").touch()
    job.redo().wait(GRACE_S)
    assert list(job.results()) == before


def test_what_cannot_be_done_again_is_refused_with_what_to_do(chain: Chain) -> None:
    (chain.folder / "b").touch()
    job = chain.run(Stage("echo", name="d"))
    again = chain.client.rerun(job, "c").wait(GRACE_S)
    with pytest.raises(Conflict, match="its input are results of another job"):
        again.redo()
