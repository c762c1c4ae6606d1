"""Rows that cannot be used: dead letters that name file and line, or the job fails; the same for small and large."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchmill
from batchmill.errors import InvalidRequest, InvalidSource, JobFailed

if TYPE_CHECKING:
    from pathlib import Path


def letters(job: batchmill.Job) -> list[tuple[int, str]]:
    return [(letter.index, letter.error_type) for letter in job.dead_letters()]


def lines(rows: int, **faulty: str) -> str:
    return "".join(faulty.get(f"n{n}", f'{{"id": {n}, "text": "t{n}"}}') + "\n" for n in range(rows))


@pytest.mark.parametrize("rows", [5, pytest.param(70_000, marks=pytest.mark.slow)])
def test_a_line_that_cannot_be_read_is_a_dead_letter_and_all_other_rows_are_done(
    client: batchmill.Client, tmp_path: Path, rows: int
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines(rows, n3="{broken"))
    job = client.submit("echo", source={"path": path, "on_bad_line": "dead"})
    job.wait()
    assert [row["id"] for row in job.results()] == [n for n in range(rows) if n != 3]
    (letter,) = job.dead_letters()
    assert (letter.index, letter.error_type) == (3, "BadLine")
    assert f"{path}, line 4: this is no JSON object" in letter.message
    assert letter.row == {"file": str(path), "line": 4, "text": "{broken"}
    with pytest.raises(InvalidRequest):
        job.replay()


def test_too_many_bad_lines_fail_the_job(client: batchmill.Client, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(lines(100, n3="{", n4="}"))
    source = {"path": tmp_path / "a.jsonl", "on_bad_line": "dead"}
    with pytest.raises(JobFailed, match="max_dead"):
        client.submit("echo", source=source, retry=batchmill.RetryPolicy(max_dead=1)).wait()


def test_a_source_of_bad_lines_only_is_refused(client: batchmill.Client, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{\n" * 4)
    with pytest.raises(InvalidSource, match="no row of the source can be read"):
        client.submit("echo", source={"path": tmp_path / "a.jsonl", "on_bad_line": "dead"})


def test_a_shard_of_bad_lines_only_completes_with_dead_letters(client: batchmill.Client, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n" + "1\n" * 4)
    job = client.submit("echo", source={"path": tmp_path / "a.csv", "on_bad_line": "dead"})
    job.wait()
    assert letters(job) == [(n, "BadLine") for n in range(4)]


@pytest.mark.parametrize("rows", [4, pytest.param(70_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("inline", [True, False])
def test_a_row_without_a_required_value_is_a_dead_letter(
    client: batchmill.Client, tmp_path: Path, rows: int, inline: bool
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines(rows, n2='{"id": 2, "text": null}'))
    given: dict[str, Any] = {"source": path}
    if inline:
        given = {"rows": iter({"id": n, "text": None if n == 2 else f"t{n}"} for n in range(rows))}
    job = client.submit("shout", **given)
    job.wait()
    assert letters(job) == [(2, "MissingValue")]
    assert [row["id"] for row in job.results()] == [n for n in range(rows) if n != 2]


@pytest.mark.parametrize("rows", [4, pytest.param(70_000, marks=pytest.mark.slow)])
def test_rows_without_a_required_value_have_no_result_if_they_are_skipped(
    client: batchmill.Client, tmp_path: Path, rows: int
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(lines(rows, n0='{"id": 0, "text": null}', n2='{"id": 2}'))
    job = client.submit("shout", source=path, on_null="skip").wait()
    assert [(row["source_row"], row["id"]) for row in job.results()] == [(n, n) for n in range(rows) if n not in (0, 2)]
    status = job.status()
    assert (status.rows_done, status.rows_dead) == (rows, 0)
    assert letters(job) == []


def test_a_source_in_which_every_row_is_skipped_completes_without_a_result(
    client: batchmill.Client, tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 1, "text": null}\n' * 100)
    job = client.submit("shout", source={"path": path, "schema": {"text": "string"}}, on_null="skip").wait()
    assert (list(job.results()), job.status().rows_done) == ([], 100)


def test_the_message_about_a_missing_value_names_its_place_in_the_files(
    client: batchmill.Client, tmp_path: Path
) -> None:
    path = tmp_path / "b.csv"
    (tmp_path / "a.csv").write_text("id,text\n" + "1,x\n" * 3)
    path.write_text('id,text\n1,"two\nlines"\n\n2,null\n3,null\n')
    source = {"path": tmp_path / "*.csv", "csv": {"null_values": ["null"]}}
    job = client.submit("shout", source=source).wait()
    assert [letter.message.partition("requires")[2] for letter in job.dead_letters()] == [
        f": {path}, line 5.",
        f": {path}, line 6.",
    ]
    with pytest.raises(JobFailed, match=f"requires: {path}, line 5; 2 rows of 6 read together lack one"):
        client.submit("shout", source=source, on_null="fail").wait()
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "c.parquet")
    (letter,) = client.submit("shout", source=tmp_path / "c.parquet").wait().dead_letters()
    assert f"{tmp_path / 'c.parquet'}, row 1 (the first one is 0)" in letter.message


def test_a_row_without_a_required_value_fails_the_job_if_it_is_to(client: batchmill.Client) -> None:
    rows = [{"text": "a"}, {"text": None}]
    with pytest.raises(JobFailed, match="row 1 has no value in the column 'text'"):
        client.submit("shout", rows=rows, on_null="fail").wait()
