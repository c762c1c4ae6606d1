"""The later stages of a job that has ended, run again over what is kept between its stages."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from batchmill import AsyncClient, Stage
from batchmill.cli import main
from batchmill.errors import Conflict, InvalidRequest, JobCancelled
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from pathlib import Path

    import batchmill

ROWS = 400


def write_rows(folder: Path, rows: int = ROWS) -> Path:
    pq.write_table(pa.table({"id": range(rows)}), folder / "in.parquet")
    return folder / "in.parquet"


def unfold(folder: Path, **options: Any) -> Stage:
    """As many results of a row as its id leaves over 4; every ninth row fails until `b` is in the folder."""
    return Stage("unfold", name="b", cure=str(folder / "b"), **{"keep": True, **options})


def reluctant(folder: Path, every: int = 5, **options: Any) -> Stage:
    """Every fifth row fails until `c` is in the folder."""
    return Stage("reluctant", name="c", cure=str(folder / "c"), every=every, **options)


def pieces(ids: list[int]) -> list[tuple[int, list[int], int]]:
    return [(n, [piece], 2 * n) for n in ids for piece in range(n % 4)]


def found(rows: Any) -> list[tuple[int, list[int], int]]:
    return [(row["source_row"], row["source_path"], row["out"]) for row in rows]


@pytest.mark.parametrize("output", ["", "folder", "one.parquet"])
def test_later_stages_run_again_with_other_parameters_over_the_same_rows(
    client: batchmill.Client, tmp_path: Path, output: str
) -> None:
    (tmp_path / "b").touch()
    stages = [unfold(tmp_path), reluctant(tmp_path), Stage("echo", name="d")]
    first = client.submit(source=write_rows(tmp_path), stages=stages).wait(GRACE_S)
    everything = list(range(ROWS))
    assert found(first.results()) == pieces([n for n in everything if n % 5])
    target = tmp_path / "out" / output if output else None
    again = client.rerun(first, "c", stages={"c": {"every": 7}}, output=target).wait(GRACE_S)
    assert found(again.results()) == pieces([n for n in everything if n % 7])
    assert {letter.path for letter in again.dead_letters(stage="c")} == {
        (n, *path) for n, path, _ in pieces([n for n in everything if n % 7 == 0])
    }
    if target is not None:
        rows = pq.read_table(target).to_pylist()
        assert sorted(found(rows)) == pieces([n for n in everything if n % 7])
    (tmp_path / "c").touch()
    again.replay(stage="c").wait(GRACE_S)
    assert found(again.results()) == pieces(everything)
    assert found(first.results()) == pieces([n for n in everything if n % 5])


def test_what_is_kept_of_a_stage_can_be_read(
    client: batchmill.Client, service_record: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "b").touch()
    job = client.submit(source=write_rows(tmp_path), stages=[unfold(tmp_path), reluctant(tmp_path)]).wait(GRACE_S)
    paths = [(n, path) for n, path, _ in pieces(list(range(ROWS)))]
    assert [(row["source_row"], row["source_path"]) for row in job.results(stage="b")] == paths
    assert job.to_table(stage="b")["source_row"].to_pylist() == [n for n, _ in paths]
    assert sum(page.rows for page in job.pages("jsonl", stage="b")) == len(paths)
    given = ["--url", service_record["url"], "--token", service_record["token"]]
    answer = CliRunner().invoke(main, ["results", job.id, "--stage", "b", "-o", str(tmp_path / "b.parquet"), *given])
    assert answer.exit_code == 0, answer.output
    assert pq.read_table(tmp_path / "b.parquet")["source_row"].to_pylist() == [n for n, _ in paths]
    with pytest.raises(InvalidRequest, match="no stage 'x'"):
        list(job.results(stage="x"))


def test_the_last_stage_alone_is_repaired_by_paths_too(client: batchmill.Client, tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    stages = [unfold(tmp_path), Stage("echo", keep=True), reluctant(tmp_path)]
    first = client.submit(source=write_rows(tmp_path), stages=stages).wait(GRACE_S)
    again = client.rerun(first.id, "c", name="again").wait(GRACE_S)
    assert [stage.name for stage in again.status().stages] == ["c"]
    assert found(again.results()) == pieces([n for n in range(ROWS) if n % 5])
    (tmp_path / "c").touch()
    again.replay().wait(GRACE_S)
    assert found(again.results()) == pieces(list(range(ROWS)))


def test_the_job_that_is_read_stays_until_the_other_one_has_ended(client: batchmill.Client, tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    gate = tmp_path / "gate"
    stages = [unfold(tmp_path), Stage("gated", gate=str(gate), keep=True), Stage("echo")]
    gate.touch()
    first = client.submit(source=write_rows(tmp_path, 40), stages=stages).wait(GRACE_S)
    over = client.rerun(first, "echo").wait(GRACE_S)
    gate.unlink()
    again = client.rerun(first, "gated")
    with pytest.raises(Conflict, match="other jobs read its results"):
        first.delete()
    over.delete()
    gate.touch()
    again.wait(GRACE_S)
    first.delete()
    assert len(list(again.results())) == 60


def test_what_is_not_there_is_refused_with_what_to_do(client: batchmill.Client, tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    source, gate = write_rows(tmp_path), tmp_path / "gate"
    stages = [unfold(tmp_path, keep=False), Stage("gated", gate=str(gate), keep=True), Stage("echo", name="last")]
    job = client.submit(source=source, stages=stages)
    with pytest.raises(Conflict, match="when it has ended"):
        client.rerun(job, "gated")
    gate.touch()
    job.wait(GRACE_S)
    with pytest.raises(Conflict, match="not submitted with keep"):
        client.rerun(job, "gated")
    with pytest.raises(InvalidRequest, match="no stage 'gate'"):
        client.rerun(job, "gate")
    with pytest.raises(InvalidRequest, match="'b' is not run again; what is: last"):
        client.rerun(job, "last", stages={"b": {"cure": "x"}})
    with pytest.raises(InvalidRequest, match="first stage of job"):
        client.rerun(job, "b")
    with pytest.raises(InvalidRequest, match="operator of 'last' cannot be changed"):
        client.rerun(job, "last", stages={"last": {"operator": "echo"}})
    assert len(list(client.rerun(job, "last").wait(GRACE_S).results())) == 600


def test_what_a_job_made_before_it_was_cancelled_is_run_on_without_keep(
    client: batchmill.Client, tmp_path: Path
) -> None:
    (tmp_path / "b").touch()
    stages = [unfold(tmp_path, keep=False), Stage("echo", pool="nobodys")]
    job = client.submit(source=write_rows(tmp_path), stages=stages)
    until(lambda: job.status().stages["b"].rows_done == ROWS, "the first stage's end")
    job.cancel()
    with pytest.raises(JobCancelled):
        job.wait(GRACE_S)
    rows = list(client.rerun(job, "echo", stages={"echo": {"pool": "default"}}).wait(GRACE_S).results())
    paths = [(row["source_row"], row["source_path"]) for row in rows]
    assert paths == [(n, path) for n, path, _ in pieces(list(range(ROWS)))]


@pytest.mark.slow
@pytest.mark.parametrize("gathers", [False, True])
def test_rows_that_a_replay_has_brought_in_are_run_again_too(
    client: batchmill.Client, tmp_path: Path, *, gathers: bool
) -> None:
    """The replay also brings rows into stages that are kept behind the one that it begins with."""
    fails = Stage("fails_pieces", name="c", cure=str(tmp_path / "c"), every=5, keep=True)
    last = Stage("gather", count="n") if gathers else Stage("echo")
    first = client.submit(source=write_rows(tmp_path), stages=[unfold(tmp_path), fails, last]).wait(GRACE_S)
    (tmp_path / "b").touch()
    first.replay(stage="b").wait(GRACE_S)
    (tmp_path / "c").touch()
    first.replay(stage="c").wait(GRACE_S)
    for stage in ("c", last.form.operator):
        rows = list(client.rerun(first, stage).wait(GRACE_S).results())
        if gathers:
            assert [(row["source_row"], row["n"]) for row in rows] == [(n, n % 4) for n in range(ROWS) if n % 4]
        else:
            assert [(row["source_row"], row["source_path"]) for row in rows] == [
                (n, path) for n, path, _ in pieces(list(range(ROWS)))
            ]


def test_source_rows_that_are_incomplete_are_not_gathered_without_the_rest(
    client: batchmill.Client, tmp_path: Path
) -> None:
    (tmp_path / "b").touch()
    fails = Stage("fails_pieces", name="c", cure=str(tmp_path / "c"), every=5, keep=True)
    stages = [unfold(tmp_path), fails, Stage("echo", keep=True), Stage("gather", mean=["of"], count="pieces")]
    first = client.submit(source=write_rows(tmp_path), stages=stages).wait(GRACE_S)
    expected = [row["source_row"] for row in first.results()]
    waiting = [letter.path for letter in first.dead_letters(stage="gather")]
    assert expected
    assert waiting
    for stage in ("gather", "echo"):
        again = client.rerun(first, stage, stages={"gather": {"count": "n"}}).wait(GRACE_S)
        rows = list(again.results())
        assert [row["source_row"] for row in rows] == expected
        assert [row["n"] for row in rows] == [n % 4 for n in expected]
        assert [letter.path for letter in again.dead_letters()] == waiting


def test_it_is_asked_for_on_the_command_line_and_with_asyncio(
    client: batchmill.Client, service_record: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "b").touch()
    stages = [unfold(tmp_path), reluctant(tmp_path, keep=True), Stage("echo", name="d")]
    first = client.submit(source=write_rows(tmp_path, 40), stages=stages).wait(GRACE_S)
    given = ["--url", service_record["url"], "--token", service_record["token"]]
    words = ["rerun", first.id, "--from", "c", "--set", "c.params.every=7", "--name", "mine", "--wait", *given]
    answer = CliRunner().invoke(main, words)
    assert answer.exit_code == 0, answer.output
    (job,) = client.jobs(1, name="mine")
    assert found(job.results()) == pieces([n for n in range(40) if n % 7])
    refused = CliRunner().invoke(main, ["rerun", first.id, "--from", "c", "--set", "every=7", *given])
    assert refused.exit_code == 2
    assert "--set STAGE.params.NAME=VALUE" in refused.output

    async def ask() -> list[dict[str, Any]]:
        async with AsyncClient(service_record["url"], service_record["token"]) as asking:
            again = await asking.rerun(first.id, "d", idempotency_key="once")
            assert (await asking.rerun(first.id, "d", idempotency_key="once")).id == again.id
            return [row async for row in again.results()]

    assert found(asyncio.run(ask())) == pieces([n for n in range(40) if n % 5])
