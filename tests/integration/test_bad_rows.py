"""Rows that cannot be used: dead letters that name file and line, or the job fails; the same for small and large."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

import batchmill
from batchmill.errors import InvalidRequest, InvalidSource, JobFailed

if TYPE_CHECKING:
    from pathlib import Path


def letters(job: batchmill.Job) -> list[tuple[int, str]]:
    return [(letter.index, letter.error_type) for letter in job.dead_letters()]


def lines(rows: int, **faulty: str) -> str:
    return "".join(faulty.get(f"n{n}", f'{{"id": {n}, "text": "t{n}"}}') + "\n" for n in range(rows))


@pytest.mark.parametrize("rows", [5, 70_000])
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


@pytest.mark.parametrize("rows", [4, 70_000])
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


def test_a_row_without_a_required_value_fails_the_job_if_it_is_to(client: batchmill.Client) -> None:
    rows = [{"text": "a"}, {"text": None}]
    with pytest.raises(JobFailed, match="row 1 has no value in the column 'text'"):
        client.submit("shout", rows=rows, on_null="fail").wait()
