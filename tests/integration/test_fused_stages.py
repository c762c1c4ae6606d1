"""Stages that run together, end to end: as stages that run apart, with nothing stored in between."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill import RetryPolicy, Stage
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from pathlib import Path

    import batchmill

ROWS = [{"id": n} for n in range(300)]


def random_chain(seed: int, folder: Path) -> list[Stage]:
    """Stages that fail for some rows at first or for good, drop rows, and make several of one."""
    rng, log, never = random.Random(seed), folder / "log", str(folder / "never")  # a test
    log.mkdir(parents=True)
    bad = rng.sample(range(300), 4)
    others = [
        Stage("unfold", name="unfold", cure=never),
        Stage("unfold", name="again", cure=never, carry=["id"]),
        Stage("reluctant", name="reluctant", cure=never, every=rng.choice([5, 7])),
        Stage("stubborn", name="stubborn", ids=bad),
        Stage("echo"),
    ]
    rng.shuffle(others)
    return [Stage("flaky", log=str(log), failures=rng.choice([1, 3])), *others[: rng.choice([3, 4, 5])]]


def without_pid(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what `flaky` says of its process."""
    return {name: value for name, value in row.items() if name != "pid"}


def outcome(job: batchmill.Job) -> dict[str, Any]:
    """Everything that a user sees of an ended job, without times, workers, and what shards there were."""
    status = job.status()
    letters = [
        (one.stage, one.path, without_pid(one.row), one.operator, one.error_type, one.message, one.attempts)
        for one in job.dead_letters()
    ]
    return {
        "rows": list(map(without_pid, job.results())),
        "dead": sorted(map(repr, letters)),
        "by_error": status.dead_by_error,
        "job": (status.rows_total, status.rows_done, status.rows_dead),
        "stages": [
            (one.name, one.rows_total, one.rows_done, one.rows_dead, one.rows_filtered, one.results, one.buffered_bytes)
            for one in status.stages
        ],
    }


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_stages_that_run_together_make_what_they_make_apart(
    client: batchmill.Client, tmp_path: Path, seed: int
) -> None:
    source = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), source)
    found = {}
    for fuse in (False, True):
        stages = random_chain(seed, tmp_path / str(fuse))
        retry = RetryPolicy(max_attempts=2, backoff_s=0)
        job = client.submit(source=source, stages=stages, retry=retry, fuse=fuse).wait(GRACE_S)
        assert [one.fused for one in job.status().stages] == [False, *[fuse] * (len(stages) - 1)]
        found[fuse] = outcome(job)
    assert found[True] == found[False]
    assert found[True]["dead"]


@pytest.mark.slow
def test_what_stages_that_run_together_have_made_is_gathered_as_if_they_ran_apart(
    client: batchmill.Client, tmp_path: Path
) -> None:
    source, rows = tmp_path / "in.parquet", 600
    pq.write_table(pa.table({"id": range(rows)}), source)
    found = {}
    for fuse in (False, True):
        folder = tmp_path / str(fuse)
        (folder / "log").mkdir(parents=True)
        stages = [
            Stage("unfold", name="unfold", cure=str(folder / "b"), carry=["id"]),
            Stage("unfold", name="again", cure=str(folder / "log"), carry=["id"]),
            Stage("flaky", log=str(folder / "log"), failures=1, carry=["of", "piece"]),
            Stage("fails_pieces", name="fails", cure=str(folder / "c"), every=11),
            Stage("gather", name="gather", mean=["of"], count="pieces", carry=["of"]),
            Stage("echo", name="last"),
        ]
        retry = RetryPolicy(max_attempts=2, backoff_s=0)
        job = client.submit(source=source, stages=stages, retry=retry, fuse=fuse).wait(GRACE_S)
        status = job.status()
        assert {one.name: one.fused for one in status.stages if one.fused != fuse} == (
            {"unfold": False, "gather": False} if fuse else {}
        )
        after_job = outcome(job)
        (folder / "b").touch()
        (folder / "c").touch()
        for stage in ("unfold", "fails", "gather"):
            job.replay(stage=stage).wait(GRACE_S)
        found[fuse] = (after_job, outcome(job))
    assert found[True] == found[False]
    assert "IncompleteSourceRow" in str(found[True][0]["dead"])


def test_nothing_is_stored_between_stages_that_run_together(
    client: batchmill.Client, service_folder: Path, tmp_path: Path
) -> None:
    source = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), source)

    def stored(**options: Any) -> set[str]:
        stages = [Stage("echo", name=name, **(options if name == "b" else {})) for name in "abc"]
        job = client.submit(source=source, stages=stages, fuse=True).wait(GRACE_S)
        assert [row["id"] for row in job.results()] == list(range(300))
        assert job.stage("a").peek() == []
        (folder,) = service_folder.rglob(f"jobs/{job.id}/results")
        return {part.name for part in folder.iterdir() if any(part.iterdir())}

    assert stored() == {"2"}
    assert stored(keep=True) == {"1", "2"}


def test_a_stage_joins_by_itself_once_its_cost_is_known(client: batchmill.Client) -> None:
    def last(rows: int) -> Any:
        stages = [Stage("names_some", name="a", first=0), Stage("names_some", name="b", first=-123)]
        job = client.submit(rows=ROWS[:rows], stages=stages).wait(GRACE_S)
        assert [row["text"] for row in job.results()] == [f"row {n}" for n in range(rows)]
        return job.status().stages["b"]

    before = after = last(20)
    for _ in range(40):  # on a busy machine the first rows take long: then it takes more of them until they seem cheap
        after = after if after.fused else last(300)
    assert (before.fused, after.fused) == (False, True), after.why_fused
    assert "not known" in before.why_fused
    assert "64 rows take" in after.why_fused
