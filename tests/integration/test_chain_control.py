"""Users and limits stop, pause and end chains of stages, whether these run together or apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill import RetryPolicy, Stage
from batchmill.errors import JobFailed
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from pathlib import Path

    import batchmill

ROWS, FIRST = 1000, 150  # more than workers take at once: some shards wait for a place
OVER = ("expiring", "expired")
TOGETHER = pytest.mark.parametrize("fuse", [False, True], ids=["apart", "fused"])


class Gated:
    """A chain whose second stage waits at rows from `FIRST` on until the file `gate` exists."""

    def __init__(self, folder: Path) -> None:
        self.gate, self.source = folder / "gate", folder / "in.parquet"
        pq.write_table(pa.table({"id": range(ROWS)}), self.source)

    def submit(self, client: batchmill.Client, *, fuse: bool, **options: Any) -> batchmill.Job:
        """Submit it; returns when the second stage waits, or, on a busy machine, once its deadline has passed."""
        gated = Stage("gated", name="b", gate=str(self.gate), first=FIRST, carry=["id"])
        never = self.gate.with_name("never")  # of a stage whose cost is not known yet the first shards are small
        stages = [Stage("gated", name="a", gate=str(never), first=ROWS), gated, Stage("echo", name="c")]
        job = client.submit(source=self.source, stages=stages, fuse=fuse, **options)
        until(lambda: self._waits() or job.status().state in OVER, "a row that waits")
        return job

    def _waits(self) -> bool:
        return any(row >= FIRST for row in self._met())

    def _met(self) -> list[int]:
        met = self.gate.with_name("gate.started")
        return [int(line.split()[0]) for line in met.read_text().splitlines()] if met.exists() else []

    def require_results(self, job: batchmill.Job) -> list[int]:
        """The results of a job that has ended, as its counters say; those of each stage are at most those before."""
        status = job.status()
        found = [row["id"] for row in job.results()]
        assert found == sorted(set(found))
        done = [one.rows_done for one in status.stages]
        assert done == sorted(done, reverse=True)
        assert done[-1] == len(found) == status.rows_done
        return found


@pytest.fixture
def gated(tmp_path: Path) -> Gated:
    return Gated(tmp_path)


@TOGETHER
def test_a_pause_releases_all_stages_and_loses_nothing(client: batchmill.Client, gated: Gated, *, fuse: bool) -> None:
    job = gated.submit(client, fuse=fuse)
    job.pause()
    gated.gate.touch()
    until(lambda: not any(one.shards_running for one in job.status().stages), "the release of all shards")
    assert job.status().state == "paused"
    assert job.status().stages["c"].rows_done < ROWS
    job.resume()
    job.wait(GRACE_S)
    assert gated.require_results(job) == list(range(ROWS))


@TOGETHER
def test_a_chain_that_is_cancelled_has_the_results_of_its_last_stage_so_far(
    client: batchmill.Client, gated: Gated, *, fuse: bool
) -> None:
    job = gated.submit(client, fuse=fuse)
    job.cancel()
    gated.gate.touch()
    until(lambda: job.status().state == "cancelled", "the end")
    assert len(gated.require_results(job)) < ROWS
    assert all(one.shards_running == 0 for one in job.status().stages)


@TOGETHER
def test_a_chain_whose_deadline_passes_ends_in_every_stage(
    client: batchmill.Client, gated: Gated, *, fuse: bool
) -> None:
    job = gated.submit(client, fuse=fuse, deadline="5s")
    until(lambda: job.status().state in OVER, "the deadline")
    gated.gate.touch()
    until(lambda: job.status().state == "expired", "the end")
    assert len(gated.require_results(job)) < ROWS


@TOGETHER
def test_source_rows_with_failed_rows_are_limited_once_each_whatever_stage_they_fail_in(
    client: batchmill.Client, tmp_path: Path, *, fuse: bool
) -> None:
    def submit(max_dead: int) -> batchmill.Job:
        rows = [{"id": n} for n in range(1, 9)]  # no multiple of nine
        stages = [
            Stage("unfold", name="pieces", cure=str(tmp_path / "never"), carry=["id"]),
            Stage("stubborn", name="fails", ids=[3, 7], carry=["id", "piece"]),  # three pieces each
            Stage("echo", name="last"),
        ]
        return client.submit(rows=rows, stages=stages, fuse=fuse, retry=RetryPolicy(max_attempts=1, max_dead=max_dead))

    job = submit(2).wait(GRACE_S)
    assert [one.rows_dead for one in job.status().stages] == [0, 6, 0]
    assert sorted({letter.path[0] for letter in job.dead_letters()}) == [2, 6]
    assert {letter.stage for letter in job.dead_letters()} == {1}
    with pytest.raises(JobFailed, match=r"More than 1 rows? failed"):
        submit(1).wait(GRACE_S)


@pytest.mark.slow
@TOGETHER
def test_the_smallest_buffer_is_kept_and_its_results_are_readable(
    client: batchmill.Client, tmp_path: Path, *, fuse: bool
) -> None:
    source, texts = tmp_path / "in.parquet", [f"{row} ".ljust(16_000, "x") for row in range(ROWS)]
    pq.write_table(pa.table({"id": range(ROWS), "text": texts}), source)
    stages = [
        Stage("echo", name="a", buffer="1MiB"),
        Stage("echo", name="b", buffer="1MiB", keep=True),
        Stage("echo", name="c"),
    ]
    job = client.submit(source=source, stages=stages, fuse=fuse).wait(GRACE_S)
    assert [row["text"] for row in job.results()] == texts
    assert [row["id"] for row in job.stage("b").peek(ROWS)] == list(range(ROWS))
    status = job.status()
    assert status.stages["a"].buffer_bytes == 1 << 20
    assert [one.fused for one in status.stages] == [False, fuse, False]  # what is kept is stored
