"""Options of `batchmill submit`, `results` and `operators`; bars and tables on small terminals."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from rich.cells import cell_len
from rich.console import Console

from batchmill.cli import SECTIONS, main
from batchmill.cli.terminal.progress import Bar
from batchmill.jobs.job import JobState
from batchmill.jobs.status import JobStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchmill import Client
    from support.live_service import LiveService

TABLE = pa.table({"id": [1, 2, 3], "text": ["a", "b", "c"]})


def test_retry_options_and_a_file_of_parameters_become_the_order(
    run: Callable[..., Result], service: LiveService, tmp_path: Path
) -> None:
    service.holds_jobs = True
    pq.write_table(TABLE, tmp_path / "a.parquet")
    (tmp_path / "params.json").write_text('{"model": "m", "n": 1}')
    options = ["--retry-on", "TimeoutError,OSError", "--never-on", "ValueError", "--backoff", "2.5"]
    options += ["--params", str(tmp_path / "params.json"), "--param", "n=2", "--any-version"]

    assert run("submit", "anything", tmp_path / "a.parquet", *options).exit_code == 0

    order = service.last_order()
    assert (order.retry.retry_on, order.retry.never_on, order.retry.backoff_s) == (
        ["TimeoutError", "OSError"],
        ["ValueError"],
        2.5,
    )
    assert order.params == {"model": "m", "n": 2}
    assert order.any_version


def test_the_size_of_an_outputs_files_becomes_the_order(
    run: Callable[..., Result], service: LiveService, tmp_path: Path
) -> None:
    service.holds_jobs = True
    pq.write_table(TABLE, tmp_path / "a.parquet")
    sizes = ["--max-rows-per-file", 5000, "--target-file-bytes", 1 << 20]
    assert run("submit", "anything", tmp_path / "a.parquet", "-o", tmp_path / "out", *sizes).exit_code == 0
    output = service.last_order().output
    assert output is not None
    assert (output.max_rows_per_file, output.target_file_bytes) == (5000, 1 << 20)
    refused = run("submit", "anything", tmp_path / "a.parquet", *sizes)
    assert refused.exit_code == 2
    assert "--max-rows-per-file needs --output" in refused.output
    one_file = run("submit", "anything", tmp_path / "a.parquet", "-o", tmp_path / "out.parquet", *sizes)
    assert one_file.exit_code == 2
    assert "is one file of any size; give a folder" in one_file.output


@pytest.mark.parametrize("text", ["[1]", "{", '"a"'])
def test_a_file_of_parameters_that_is_no_object_is_refused(
    run: Callable[..., Result], tmp_path: Path, text: str
) -> None:
    path = tmp_path / "params.json"
    path.write_text(text)

    done = run("submit", "echo", "x.jsonl", "--params", path)

    assert (done.exit_code, str(path) in done.stderr) == (2, True)


def test_uploaded_files_arrive_with_their_types_and_in_order(
    run: Callable[..., Result], service: LiveService, tmp_path: Path
) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")
    pq.write_table(TABLE, tmp_path / "b.parquet")

    done = run("submit", "echo", tmp_path / "a.parquet", tmp_path / "b.parquet", "--upload", "--wait")

    assert done.exit_code == 0
    assert service.last_rows().equals(pa.concat_tables([TABLE, TABLE]).combine_chunks())


def test_a_dry_run_shows_the_input_and_submits_nothing(run: Callable[..., Result], tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "a.parquet")

    found = json.loads(run("submit", "echo", tmp_path / "a.parquet", "--dry-run", "--json").stdout)
    blocked = run("submit", "echo", tmp_path / "a.parquet", "--pool", "gpu", "--dry-run")
    wrong = run("submit", "ech", tmp_path / "a.parquet", "--dry-run")

    columns = {"id": "int64", "text": "string"}
    assert found == {"rows_total": 3, "rows_total_is_exact": True, "columns": columns, "notes": []}
    assert "It would wait: no worker of pool 'gpu' is running" in blocked.stdout
    assert (wrong.exit_code, "no worker has an operator 'ech'" in wrong.stderr) == (2, True)
    assert run("jobs", "--json").stdout == ""


def test_an_option_that_is_a_parameter_of_the_operator_is_explained(run: Callable[..., Result]) -> None:
    done = run("submit", "embed", "x.jsonl", "--model", "m")

    assert done.exit_code == 2
    assert "`--param model=VALUE`" in done.stderr


def test_a_job_that_is_blocked_says_so_when_it_is_submitted(
    run: Callable[..., Result], service: LiveService, tmp_path: Path
) -> None:
    service.holds_jobs = True
    pq.write_table(TABLE, tmp_path / "a.parquet")

    done = run("submit", "echo", tmp_path / "a.parquet", "--pool", "nobody")

    assert done.exit_code == 0
    assert "blocked: no worker of pool 'nobody'" in done.stderr


@pytest.mark.parametrize(("kind", "first"), [("jsonl", '{"id":0}'), ("csv", '"id"')])
def test_the_first_results_are_written_in_the_format_that_is_asked_for(
    run: Callable[..., Result], client: Client, kind: str, first: str
) -> None:
    job = client.submit("echo", rows=[{"id": number} for number in range(5)]).wait()

    done = run("results", job.id, "--limit", 2, "--format", kind)

    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, first)
    assert len(done.stdout.splitlines()) == (2 if kind == "jsonl" else 3)


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl", "out.csv"])
def test_a_file_of_the_first_results_has_that_number_of_rows(
    run: Callable[..., Result], client: Client, tmp_path: Path, name: str
) -> None:
    from pyarrow import csv
    from pyarrow import json as lines

    read = {"parquet": pq.read_table, "jsonl": lines.read_json, "csv": csv.read_csv}[name.partition(".")[2]]
    job = client.submit("echo", rows=[{"id": number} for number in range(5)]).wait()

    assert run("results", job.id, "-n", 3, "-o", tmp_path / name).exit_code == 0

    assert read(tmp_path / name).to_pylist() == [{"id": 0}, {"id": 1}, {"id": 2}]


def test_an_operator_is_described_with_each_of_its_parameters(run: Callable[..., Result], client: Client) -> None:
    operator = next(one for one in client.operators() if one.params_schema.get("properties"))

    text = run("operators", operator.name).stdout

    assert all(name in text for name in operator.params_schema["properties"])
    unknown = run("operators", f"{operator.name}x")
    assert (unknown.exit_code, operator.name in unknown.stderr) == (2, True)


def test_results_become_frames_of_pandas_and_polars(client: Client) -> None:
    job = client.submit("echo", rows=TABLE)

    assert job.to_pandas().to_dict("list") == TABLE.to_pydict()
    assert job.to_polars().to_dict(as_series=False) == TABLE.to_pydict()


def test_a_printed_status_is_one_short_line(client: Client) -> None:
    status = client.submit("echo", rows=TABLE).wait().status()

    assert str(status) == f"{status.id} completed: echo, 3 of 3 rows"
    assert str(client.job(status.id).cost()).endswith("for 3 rows")


class Terminal(io.StringIO):
    """A terminal that keeps what is written to it."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_bar_has_a_width_and_no_line_is_wider_than_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "dumb")
    note = "no worker of pool 'a-pool-with-a-long-name' is running; start one with `batchmill worker --pool …`"
    status = JobStatus(
        id="job-1", state=JobState.RUNNING, operator="embed", rows_total=100, rows_done=50, created_at=0, note=note
    )
    out = Terminal()
    bar = Bar(out)
    bar.show(status)
    bar.stop()
    paper = Console(file=io.StringIO(), width=width)
    paper.print(bar.content)
    assert isinstance(paper.file, io.StringIO)
    shown = paper.file.getvalue().splitlines()

    assert shown[0].startswith("blocked ")
    assert shown[0].count("━") >= width // 4
    assert "50%" in shown[0]
    assert "embed, 50 of 100 rows" in shown[1]
    assert shown[2].startswith("blocked: no worker of pool")
    assert all(cell_len(line) <= width for line in shown)


def test_every_command_is_in_a_section_of_the_help_and_its_text_fits_80_columns() -> None:
    text = CliRunner().invoke(main, ["--help"], terminal_width=80).stdout

    assert "Others:" not in text
    assert "..." not in text.replace("[ARGS]...", "")
    for _, names in SECTIONS:
        for name in names:
            line = next(line for line in text.splitlines() if line.startswith(f"  {name} "))
            assert line.rstrip().endswith("."), line
