"""A job of several stages, submitted again over an output that an earlier one left unfinished."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill import RetryPolicy, Stage
from batchmill.errors import InvalidOutput, JobCancelled, JobExpired, JobFailed
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from pathlib import Path

    import batchmill

ROWS = 600
FREE = 400  # rows that need not wait at a gate
AT_WORK = 4 * 64  # results in the shards that two workers have at once, before the pace of a stage is known


class Chain:
    """Rows that pass a gate, are unfolded, and pass another one."""

    def __init__(self, client: batchmill.Client, folder: Path) -> None:
        self.client, self.folder = client, folder
        self.source, self.output = folder / "in.parquet", folder / "out"
        self.first, self.last = folder / "first", folder / "last"
        (folder / "b").touch()
        pq.write_table(pa.table({"id": range(ROWS)}), self.source)

    def stages(self, **unfold: Any) -> list[Stage]:
        return [
            Stage("gated", name="a", gate=str(self.first), first=FREE),
            Stage("unfold", name="b", cure=str(self.folder / "b"), **unfold),
            Stage("gated", name="c", gate=str(self.last), first=FREE),
        ]

    def submit(self, **options: Any) -> batchmill.Job:
        given = {"source": self.source, "stages": self.stages(), "output": self.output, **options}
        return self.client.submit(**given)

    def begun(self, gate: Path) -> Counter[int]:
        """How often a gate met each row; behind the second stage a row is several."""
        return Counter(int(line.split()[0]) for line in gate.with_name(f"{gate.name}.started").read_text().splitlines())


def pieces(ids: list[int]) -> list[tuple[int, list[int]]]:
    return [(n, [piece]) for n in ids for piece in range(n % 4)]


def found(rows: Any) -> list[tuple[int, list[int]]]:
    return [(row["source_row"], row["source_path"]) for row in rows]


def stop(job: batchmill.Job, *gates: Path) -> None:
    """Cancel a job that waits at a gate, and open the gates."""
    job.cancel()
    for gate in gates:
        gate.touch()
    with pytest.raises(JobCancelled):
        job.wait(GRACE_S)


@pytest.fixture
def chain(client: batchmill.Client, tmp_path: Path) -> Chain:
    return Chain(client, tmp_path)


@pytest.mark.parametrize("waits_at", ["first", "last"])
def test_what_any_stage_has_committed_is_not_done_again(chain: Chain, waits_at: str) -> None:
    (chain.first if waits_at == "last" else chain.last).touch()
    job = chain.submit()
    stage = "a" if waits_at == "first" else "c"
    until(lambda: job.status().stages[stage].rows_done > 0, "a shard of the stage that waits")
    stop(job, chain.first, chain.last)
    left = job.status()
    again = chain.submit().wait(GRACE_S)
    assert found(again.results()) == pieces(list(range(ROWS)))
    status = again.status()
    assert status.resumed_from == job.id
    assert [stage.rows_done for stage in status.stages] == [ROWS, ROWS, ROWS * 6 // 4]
    assert status.stages["b"].rows_filtered >= ROWS // 4
    twice = {name: sum(chain.begun(gate).values()) for name, gate in (("a", chain.first), ("c", chain.last))}
    assert twice["a"] <= ROWS + AT_WORK, "only rows of shards that were at work ran twice"
    assert twice["c"] <= ROWS * 6 // 4 + AT_WORK
    if waits_at == "last":
        assert left.stages["a"].rows_done == ROWS
        assert twice["a"] == ROWS
    job.delete()


def test_a_job_that_failed_in_a_stage_goes_on_where_it_stopped(client: batchmill.Client, tmp_path: Path) -> None:
    chain = Chain(client, tmp_path)
    chain.first.touch()
    cure, retry = tmp_path / "cure", RetryPolicy(max_attempts=1, max_dead=0)
    stages = [*chain.stages()[:2], Stage("reluctant", name="d", cure=str(cure), every=5, retry=retry)]
    job = chain.submit(stages=stages)
    with pytest.raises(JobFailed):
        job.wait(GRACE_S)
    assert job.status().stages["d"].rows_dead
    cure.touch()
    again = chain.submit(stages=stages).wait(GRACE_S)
    assert again.status().resumed_from == job.id
    dead = {letter.path for letter in again.dead_letters()}
    assert dead
    expected = [(n, path) for n, path in pieces(list(range(ROWS))) if (n, *path) not in dead]
    assert found(again.results()) == expected
    again.replay().wait(GRACE_S)
    assert found(again.results()) == pieces(list(range(ROWS)))


@pytest.mark.slow
def test_a_job_that_expired_between_two_stages_goes_on(chain: Chain) -> None:
    chain.first.touch()
    stages = chain.stages(keep=True)
    stages[2].form = stages[2].form.model_copy(update={"pool": "nobodys"})
    job = chain.submit(stages=stages, deadline="6s")
    with pytest.raises(JobExpired):
        job.wait(GRACE_S)
    assert job.status().stages["b"].rows_done == ROWS
    chain.last.touch()
    again = chain.submit(stages=chain.stages(keep=True)).wait(GRACE_S)
    assert found(again.results()) == pieces(list(range(ROWS)))
    assert sum(chain.begun(chain.first).values()) == ROWS
    rerun = chain.client.rerun(again, "c").wait(GRACE_S)
    assert found(rerun.results()) == pieces(list(range(ROWS)))


@pytest.mark.parametrize("waits_at", ["first", "last"])
def test_stages_that_run_together_go_on_together(chain: Chain, waits_at: str) -> None:
    (chain.first if waits_at == "last" else chain.last).touch()
    job = chain.submit(fuse=True)
    until(lambda: job.status().stages["a"].rows_done > 0, "a shard")
    stop(job, chain.first, chain.last)
    again = chain.submit(fuse=False).wait(GRACE_S)
    assert found(again.results()) == pieces(list(range(ROWS)))
    status = again.status()
    assert [(stage.rows_done, stage.rows_total) for stage in status.stages] == [
        (ROWS, ROWS),
        (ROWS, ROWS),
        (ROWS * 6 // 4, ROWS * 6 // 4),
    ]
    assert sum(chain.begun(chain.first).values()) <= ROWS + AT_WORK


def test_source_rows_are_gathered_whole_in_a_job_that_goes_on(chain: Chain) -> None:
    chain.first.touch()
    fails = Stage("fails_pieces", name="f", cure=str(chain.folder / "f"), every=5)
    gather: dict[str, Any] = {"count": "n", "mean": ["of"]}
    job = chain.submit(stages=[*chain.stages()[:2], fails, Stage("gather", pool="nobodys", **gather)])
    until(lambda: job.status().stages["f"].rows_dead > 0, "rows that fail")
    stop(job)
    again = chain.submit(stages=[*chain.stages()[:2], fails, Stage("gather", **gather)]).wait(GRACE_S)
    whole = [n for n in range(ROWS) if n % 4 and all((n + piece) % 5 for piece in range(n % 4))]
    assert [(row["source_row"], row["n"], row["of"]) for row in again.results()] == [(n, n % 4, n) for n in whole]
    incomplete = {letter.path[0] for letter in again.dead_letters(stage="gather")}
    assert incomplete.isdisjoint(whole)
    (chain.folder / "f").touch()
    again.replay(stage="f").wait(GRACE_S)
    again.replay(stage="gather").wait(GRACE_S)
    assert [(row["source_row"], row["n"]) for row in again.results()] == [(n, n % 4) for n in range(ROWS) if n % 4]


def test_what_is_not_the_same_in_any_stage_is_refused_and_named(chain: Chain) -> None:
    chain.first.touch()
    job = chain.submit()
    until(lambda: job.status().stages["c"].rows_done > 0, "a shard of the last stage")
    stop(job, chain.last)
    with pytest.raises(InvalidOutput, match="of stage 'b', the parameter 'first' was 0, now it is 7"):
        chain.submit(stages=chain.stages(first=7))
    with pytest.raises(InvalidOutput, match="of stage 'b', the results were not kept"):
        chain.submit(stages=chain.stages(keep=True))
    with pytest.raises(InvalidOutput, match="it had 3 stages, now it has 2 stages"):
        chain.submit(stages=chain.stages()[:2])
    with pytest.raises(InvalidOutput, match="it had 3 stages, now it has 1 stage"):
        chain.client.submit("echo", source=chain.source, output=chain.output)
    job.delete()
    with pytest.raises(InvalidOutput, match="was deleted, and with it what was between its stages"):
        chain.submit()


def test_the_earlier_job_can_be_deleted_once_its_results_are_copied(chain: Chain) -> None:
    chain.first.touch()
    job = chain.submit()
    until(lambda: job.status().stages["c"].rows_done > 0, "a shard of the last stage")
    stop(job, chain.last)
    again = chain.submit()
    until(lambda: again.status().rows_done > 0, "the results are copied")
    job.delete()
    again.wait(GRACE_S)
    assert found(again.results()) == pieces(list(range(ROWS)))
