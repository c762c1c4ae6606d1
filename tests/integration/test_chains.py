"""Jobs of several stages, end to end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from batchmill import Stage
from batchmill.cli import main
from batchmill.errors import InvalidOutput, InvalidParams, InvalidRequest, InvalidRows, UnknownOperator
from support.cluster import manifest
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from pathlib import Path

    import batchmill

WORDS = "one two three four five six seven eight nine ten"
DOCUMENTS = [{"id": n, "text": " ".join([WORDS] * (1 + n % 5))} for n in range(300)]


def chunk_stage(**options: Any) -> Stage:
    return Stage("chunk", size=40, overlap=0, **options)


def chunks_of(client: batchmill.Client, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What `chunk` alone makes of these rows."""
    return list(client.submit("chunk", rows, params={"size": 40, "overlap": 0}).wait(GRACE_S).results())


@pytest.mark.parametrize("rows", [DOCUMENTS[:5], DOCUMENTS], ids=["small", "large"])
def test_rows_pass_through_all_stages_in_order(client: batchmill.Client, rows: list[dict[str, Any]]) -> None:
    stages = [Stage("echo", name="first"), chunk_stage(), Stage("echo", name="last")]
    job = client.submit(rows=rows, stages=stages).wait(GRACE_S)
    found = list(job.results())
    expected = chunks_of(client, rows)
    assert [row["text"] for row in found] == [row["text"] for row in expected]
    assert [row["source_row"] for row in found] == [row["source_row"] for row in expected]
    assert [row["source_path"] for row in found] == [[row["chunk"]] for row in expected]
    assert [stage.rows_done for stage in job.status().stages] == [len(rows), len(rows), len(expected)]


ROWS = [{"id": n} for n in range(400)]


class Cures:
    """A chain of which three stages fail for some rows until they are cured: `a` for every seventh row, `b` for every
    ninth, `c` for every fifth. `b` makes as many results of a row as its id leaves over 4.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def stages(self, **b: Any) -> list[Stage]:
        return [
            Stage("reluctant", name="a", cure=str(self._folder / "a"), every=7),
            Stage("unfold", name="b", cure=str(self._folder / "b"), **b),
            Stage("reluctant", name="c", cure=str(self._folder / "c"), every=5),
            Stage("echo", name="d"),
        ]

    def cure(self, stage: str) -> None:
        (self._folder / stage).touch()


def pieces(ids: list[int]) -> list[tuple[int, list[int], int]]:
    """What the chain makes of these rows."""
    return [(n, [piece], 2 * n) for n in ids for piece in range(n % 4)]


def found(rows: Any) -> list[tuple[int, list[int], int]]:
    return [(row["source_row"], row["source_path"], row["out"]) for row in rows]


def dead_in(job: batchmill.Job, stage: str) -> list[tuple[int, ...]]:
    return [letter.path for letter in job.dead_letters(stage=stage)]


@pytest.mark.parametrize(("output", "fuse"), [("", True), ("folder", True), ("lines", False), ("one.parquet", False)])
def test_rows_that_failed_in_any_stage_are_replayed_through_the_later_ones_into_place(
    client: batchmill.Client, tmp_path: Path, output: str, *, fuse: bool
) -> None:
    cures = Cures(tmp_path)
    source = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), source)
    target = {"path": str(tmp_path / output), "format": "jsonl" if output == "lines" else "parquet"} if output else None
    job = client.submit(source=source, stages=cures.stages(), output=target, fuse=fuse).wait(GRACE_S)
    everything = [row["id"] for row in ROWS]
    done = [n for n in everything if n % 7 and n % 9 and n % 5]
    assert found(job.results()) == pieces(done)
    assert dead_in(job, "a") == [(n,) for n in everything if n % 7 == 0]
    assert dead_in(job, "b") == [(n,) for n in everything if n % 7 and n % 9 == 0]
    assert dead_in(job, "c") == [
        (n, *path) for n, path, _ in pieces([n for n in everything if n % 7 and n % 9]) if n % 5 == 0
    ]
    assert job.status().stages["b"].rows_filtered == len([n for n in everything if n % 7 and n % 9 and n % 4 == 0])

    cures.cure("a")
    job.replay(stage="a").wait(GRACE_S)
    done = [n for n in everything if n % 9 and n % 5]
    assert found(job.results()) == pieces(done)
    assert dead_in(job, "a") == []
    assert sorted(dead_in(job, "b")) == [(n,) for n in everything if n % 9 == 0]

    cures.cure("c")
    job.replay(stage="c").wait(GRACE_S)
    assert found(job.results()) == pieces([n for n in everything if n % 9])
    cures.cure("b")
    job.replay().wait(GRACE_S)
    assert found(job.results()) == pieces(everything)
    assert job.dead_letters() == []
    status = job.status()
    assert (status.rows_dead, [stage.rows_dead for stage in status.stages]) == (0, [0] * 4)
    assert [stage.rows_done for stage in status.stages] == [400, 400, 600, 600]
    if output == "folder":
        parts = manifest(tmp_path / output)["parts"]
        rows = [row for part in parts for row in pq.read_table(tmp_path / output / part["name"]).to_pylist()]
        assert found(rows) == pieces(everything)
    if output == "one.parquet":
        assert found(pq.read_table(tmp_path / output).to_pylist()) == pieces(everything)


def gated_chain(client: batchmill.Client, folder: Path) -> tuple[batchmill.Job, Cures, Path]:
    """A chain whose rows failed in its first stage, which is cured, and whose second stage waits for a gate now."""
    cures, gate, source = Cures(folder), folder / "gate", folder / "in.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), source)
    gate.touch()
    stages = cures.stages(gate=str(gate))
    job = client.submit(source=source, stages=stages, output=folder / "out", fuse=False).wait(GRACE_S)
    gate.unlink()
    cures.cure("a")
    return job, cures, gate


def until_its_second_stage(replay: batchmill.Job) -> None:
    until(lambda: replay.status().stages["b"].shards_running > 0, "the second stage of the replay")


def test_a_replay_that_is_cancelled_between_two_stages_loses_no_row(client: batchmill.Client, tmp_path: Path) -> None:
    job, cures, gate = gated_chain(client, tmp_path)
    before, failed = found(job.results()), dead_in(job, "a")
    replay = job.replay(stage="a")
    until_its_second_stage(replay)
    replay.cancel()
    gate.touch()
    until(lambda: replay.status().is_final, "the end of the replay")
    assert (found(job.results()), dead_in(job, "a")) == (before, failed)
    for stage in "bc":
        cures.cure(stage)
    for stage in "abc":
        job.replay(stage=stage).wait(GRACE_S)
    assert found(job.results()) == pieces([row["id"] for row in ROWS])


def test_of_two_replays_of_the_same_rows_at_once_one_counts(client: batchmill.Client, tmp_path: Path) -> None:
    job, cures, gate = gated_chain(client, tmp_path)
    replays = [job.replay(stage="a"), job.replay(stage="a")]
    until_its_second_stage(replays[0])
    gate.touch()
    for replay in replays:
        until(lambda: replay.status().is_final, "the end of a replay")  # noqa: B023  # it is called at once
    assert sorted(str(replay.status().state) for replay in replays) == ["completed", "failed"]
    (failed,) = (status for replay in replays if (status := replay.status()).error)
    assert failed.error is not None
    assert "replayed by another job meanwhile" in failed.error.message
    for stage in "bc":
        cures.cure(stage)
        job.replay(stage=stage).wait(GRACE_S)
    assert found(job.results()) == pieces([row["id"] for row in ROWS])
    assert [(stage.rows_done, stage.rows_dead) for stage in job.status().stages] == [
        (400, 0),
        (400, 0),
        (600, 0),
        (600, 0),
    ]


def test_dead_letters_are_those_of_their_stage(client: batchmill.Client, tmp_path: Path) -> None:
    cures = Cures(tmp_path)
    job = client.submit(rows=ROWS, stages=cures.stages()).wait(GRACE_S)
    status = job.status()
    assert status.rows_done + status.rows_dead == status.rows_total
    stages = {"a": 0, "b": 1, "c": 2}

    for stage, number in stages.items():
        again = job.replay(stage=stage).wait(GRACE_S).status()
        assert again.rows_done + again.rows_dead == again.rows_total
        assert {letter.stage for letter in job.dead_letters(stage=stage)} == {number}

    in_stage = {stage: len(dead_in(job, stage)) for stage in stages}
    exported = tmp_path / "dead.jsonl"
    assert job.export_dead_letters(exported, stage="b") == in_stage["b"]
    assert {json.loads(line)["stage"] for line in exported.read_text().splitlines()} == {1}
    with pytest.raises(InvalidRequest, match="no stage 'x'"):
        job.purge_dead_letters(stage="x")
    assert job.purge_dead_letters(stage="b") == in_stage["b"]
    assert {stage: len(dead_in(job, stage)) for stage in stages} == in_stage | {"b": 0}


def test_results_of_a_stage_that_are_kept_can_be_looked_at(
    client: batchmill.Client, service_record: dict[str, str], tmp_path: Path
) -> None:
    cures = Cures(tmp_path)
    for stage in "abc":
        cures.cure(stage)
    source = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), source)
    job = client.submit(source=source, stages=cures.stages(keep=True)).wait(GRACE_S)

    assert [row["of"] for row in job.stage("b").peek(3)] == [1, 2, 2]
    options = ["--url", service_record["url"], "--token", service_record["token"]]
    printed = CliRunner().invoke(main, ["peek", job.id, "--stage", "b", "--rows", "3", *options])
    assert [json.loads(line)["of"] for line in printed.stdout.splitlines()] == [1, 2, 2]
    with pytest.raises(InvalidRequest, match="no stage 'x'"):
        job.stage("x").peek()
    assert job.status().stages["b"].results == 600
    with pytest.raises(InvalidRequest, match="at least 1, got 0"):
        job.stage("b").peek(0)
    for operator in ("reluctant", "unfold", "echo"):
        assert job.id in [one.id for one in client.jobs(operator=operator)]


def test_results_of_a_stage_that_are_deleted_are_explained(
    client: batchmill.Client, service_record: dict[str, str]
) -> None:
    job = client.submit(rows=ROWS, stages=[Stage("echo", name="a"), Stage("echo", name="b")], fuse=False).wait(GRACE_S)
    until(lambda: not job.stage("a").peek(1), "the deletion of the results")
    options = ["--url", service_record["url"], "--token", service_record["token"]]
    for command, expected in (("peek", 0), ("results", 1)):
        printed = CliRunner().invoke(main, [command, job.id, "--stage", "a", *options])
        assert printed.exit_code == expected
        assert printed.stdout == ""
        assert "the stage was submitted without keep=true" in printed.stderr


def test_as_many_results_of_a_stage_are_read_as_are_asked_for(client: batchmill.Client) -> None:
    stages = [Stage("wordy", nbytes=60_000, keep=True), Stage("echo")]
    job = client.submit(rows=ROWS, stages=stages).wait(GRACE_S)
    assert [row["id"] for row in job.stage("wordy").peek(1000)] == [row["id"] for row in ROWS]


def test_a_column_that_a_later_stage_cannot_get_is_refused_at_submit(client: batchmill.Client) -> None:
    chunk = Stage("chunk", size=40, overlap=0, carry=["id"])
    for stage, error, message in (
        (Stage("chunk", name="again", column="body"), InvalidRows, "stage 'again'.*requires the column 'body'"),
        (Stage("echo", carry=["title"]), InvalidRequest, "stage 'echo': carry names the column 'title'"),
    ):
        with pytest.raises(error, match=message):
            client.submit(rows=DOCUMENTS[:3], stages=[chunk, stage])
    with pytest.raises(InvalidRows, match="'source_row'"):
        client.submit(rows=[{"id": 1, "text": "a", "source_row": 1}], stages=[chunk, Stage("echo")])
    with pytest.raises(InvalidRequest, match="two stages are called 'echo'"):
        client.submit(rows=DOCUMENTS[:3], stages=[Stage("echo"), Stage("echo")])
    with pytest.raises(InvalidRequest, match="either an operator or stages"):
        client.submit("echo", DOCUMENTS[:3], stages=[Stage("echo")])
    with pytest.raises(UnknownOperator, match=r"^stage 'echoo': no worker has an operator 'echoo'"):
        client.submit(rows=DOCUMENTS[:3], stages=[Stage("echo"), Stage("echoo")])
    with pytest.raises(InvalidParams, match=r"^stage 'chunk': operator 'chunk' has no parameter 'sizee'"):
        client.submit(rows=DOCUMENTS[:3], stages=[Stage("chunk", sizee=40), Stage("echo")])


def test_stages_that_are_planned_beside_each_other_do_not_count_as_ends_of_the_planner(
    client: batchmill.Client, tmp_path: Path
) -> None:
    source, rows = tmp_path / "in.parquet", 40_000
    pq.write_table(pa.table({"id": range(rows)}), source)
    stages = [Stage("echo", name=f"stage {number}") for number in range(5)]
    table = client.submit(source=source, stages=stages).wait(GRACE_S).to_table()
    assert table["id"].to_pylist() == list(range(rows))
    assert table["source_row"].to_pylist() == list(range(rows))


@pytest.mark.parametrize("on_null", ["dead", "skip"])
def test_a_result_without_a_column_that_the_next_stage_requires_is_a_row_without_a_value(
    client: batchmill.Client, tmp_path: Path, on_null: Literal["dead", "skip"]
) -> None:
    source, first = tmp_path / "in.parquet", 300
    pq.write_table(pa.Table.from_pylist(ROWS), source)
    stages = [Stage("names_some", first=first), Stage("shout", on_null=on_null)]
    job = client.submit(source=source, stages=stages).wait(GRACE_S)
    assert [row["loud"] for row in job.results()] == [f"ROW {n}!" for n in range(first, len(ROWS))]
    letters = job.dead_letters()
    assert [letter.path for letter in letters] == ([(n,) for n in range(first)] if on_null == "dead" else [])
    assert {letter.error_type for letter in letters} <= {"MissingValue"}


def test_a_carried_column_that_a_part_lacks_is_null_there_wherever_parts_are_cut(
    client: batchmill.Client, tmp_path: Path
) -> None:
    source, first = tmp_path / "in.parquet", 300
    pq.write_table(pa.Table.from_pylist(ROWS), source)
    stages = [Stage("names_some", first=first), Stage("echo", carry=["id", "text"])]
    found = list(client.submit(source=source, stages=stages).wait(GRACE_S).results())
    assert [row["id"] for row in found] == [row["id"] for row in ROWS]
    assert [row["text"] is None for row in found] == [row["id"] < first for row in ROWS]


def test_a_chain_does_not_resume_what_a_job_of_its_last_stage_has_left(
    client: batchmill.Client, tmp_path: Path
) -> None:
    source, log = tmp_path / "in.parquet", tmp_path / "log"
    log.mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS), source)
    job = client.submit("steady", source=source, params={"log": str(log)}, output=tmp_path / "out")
    until(lambda: job.status().rows_done > 0, "the first results")
    job.cancel()
    until(lambda: job.status().is_final, "the end of the job")
    with pytest.raises(InvalidOutput, match="it had 1 stage, now it has 2"):
        client.submit(source=source, stages=[Stage("echo"), Stage("steady", log=str(log))], output=tmp_path / "out")


def test_a_later_stage_without_workers_is_named(client: batchmill.Client) -> None:
    job = client.submit(rows=ROWS[:5], stages=[Stage("echo"), Stage("echo", name="later", pool="nobody")])
    until(lambda: "no worker of pool 'nobody'" in (job.status().note or ""), "the reason")
    job.cancel()
    until(lambda: job.status().is_final, "the end of the job")
