"""Jobs over some rows of a source, in a real service."""

from __future__ import annotations

from typing import TYPE_CHECKING

from click.testing import CliRunner

from batchmill.cli import main
from batchmill.sources.sampling import Sample

if TYPE_CHECKING:
    from pathlib import Path

    import batchmill

ROWS = 40_000


def _lines(path: Path, missing: int | None = None) -> Path:
    texts = ("null" if n == missing else f'"row {n}"' for n in range(ROWS))
    path.write_text("".join(f'{{"n": {n}, "text": {text}}}\n' for n, text in enumerate(texts)))
    return path


def test_a_job_over_a_sample_has_its_rows_in_order_and_counts_only_them(
    client: batchmill.Client, tmp_path: Path
) -> None:
    source = {"path": str(_lines(tmp_path / "in.jsonl")), "sample": 0.05, "seed": 3}
    job = client.submit("echo", source=source)
    expected = Sample.fraction(0.05, 3).places(0, ROWS).tolist()
    assert [row["n"] for row in job.results()] == expected
    status = job.wait(60).status()
    assert (status.rows_total, status.rows_done) == (len(expected), len(expected))


def test_a_failed_row_of_a_sample_is_numbered_in_it_and_can_be_replayed(
    client: batchmill.Client, tmp_path: Path
) -> None:
    rows = Sample.number(500, ROWS, 0).places(0, ROWS).tolist()
    path = _lines(tmp_path / "in.jsonl", missing=rows[321])
    job = client.submit("chunk", source={"path": str(path), "sample": 500}, params={"size": 100})
    assert [row["n"] for row in job.wait(60).results()] == rows[:321] + rows[322:]
    (letter,) = job.dead_letters()
    assert (letter.index, letter.row["n"]) == (321, rows[321])
    job.replay(edits={321: {"text": "found"}}).wait(60)
    assert [row["n"] for row in job.results()] == rows


def test_the_shell_takes_the_first_rows(
    client: batchmill.Client, service_record: dict[str, str], tmp_path: Path
) -> None:
    path = _lines(tmp_path / "in.jsonl")
    before = {job.id for job in client.jobs(100)}
    arguments = ["submit", "echo", str(path), "--limit", "7", "--sample", "0.5", "--seed", "9", "--wait"]
    done = CliRunner().invoke(
        main, [*arguments, "--url", service_record["url"], "--token", service_record["token"]], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    (job,) = [job for job in client.jobs(100) if job.id not in before]
    assert [row["n"] for row in job.results()] == Sample.fraction(0.5, 9).places(0, ROWS)[:7].tolist()
    refused = CliRunner().invoke(main, ["submit", "echo", str(path), "--sample", "1.5"])
    assert refused.exit_code == 2
    assert "a share such as 0.01, or a number of rows" in refused.output
