from __future__ import annotations

import csv
import datetime
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from batchmill.cli import main
from batchmill.cli.exports import open_export
from batchmill.cli.terminal.progress import LINE_INTERVAL_S, PlainLines
from batchmill.client.results.pages import ResultPage
from batchmill.jobs.job import JobState
from batchmill.jobs.status import JobStatus
from support.fault_proxy import Fault
from support.hand_clock import HandClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from batchmill import Client, Job
    from support.live_service import LiveService

TABLE = pa.table({"id": pa.array(range(1000), pa.int32()), "text": [f"row {i}" for i in range(1000)]})


@pytest.fixture
def run(service: LiveService, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("BATCHMILL_URL", service.url)
    monkeypatch.setenv("BATCHMILL_TOKEN", service.token)

    def run_command(*args: object) -> Result:
        return CliRunner().invoke(main, ["results", *map(str, args)], catch_exceptions=False)

    return run_command


@pytest.fixture
def job(service: LiveService, client: Client, small_pages: None) -> Job:  # noqa: ARG001  # it makes them small
    """A finished job of four pages."""
    service.holds_jobs = True
    job = client.submit("echo", rows=TABLE)
    for first in range(0, 1000, 300):
        service.change(job.id, TABLE.slice(first, 300))
    service.change(job.id, state=JobState.COMPLETED)
    return job


def _read(path: Path) -> pa.Table:
    if path.suffix == ".parquet":
        return pq.read_table(path)
    with pa.ipc.open_file(path.read_bytes()) as file:
        return file.read_all()


def test_results_come_to_stdout_as_json_lines_in_order(run: Callable[..., Result], job: Job) -> None:
    done = run(job.id)
    assert (done.exit_code, done.stderr) == (0, "")
    assert [json.loads(line) for line in done.stdout.splitlines()] == TABLE.to_pylist()


@pytest.mark.parametrize("ending", ["parquet", "arrow", "feather"])
def test_columnar_files_hold_the_rows_with_their_types(
    run: Callable[..., Result], job: Job, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"x.{ending}"
    done = run(job.id, "-o", path)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", f"wrote 1,000 rows to {path}\n")
    assert _read(path).equals(TABLE)
    assert list(tmp_path.iterdir()) == [path]


def test_a_json_lines_file_holds_the_rows(run: Callable[..., Result], job: Job, tmp_path: Path) -> None:
    run(job.id, "-o", tmp_path / "x.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    assert rows == TABLE.to_pylist()


def test_a_csv_file_has_one_header_and_the_rows(run: Callable[..., Result], job: Job, tmp_path: Path) -> None:
    run(job.id, "-o", tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["id", "text"], *([str(row["id"]), row["text"]] for row in TABLE.to_pylist())]


def test_csv_holds_lists_as_json_and_bytes_as_base64(
    run: Callable[..., Result], client: Client, tmp_path: Path
) -> None:
    when = datetime.datetime(2024, 5, 1, tzinfo=datetime.UTC)
    job = client.submit("echo", rows=[{"v": [1.5, None], "b": b"\xff", "s": {"t": when, "b": b"x"}, "n": None}])
    run(job.id, "-o", tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        _, row = csv.reader(file)
    assert row == ["[1.5, null]", "/w==", '{"t": "2024-05-01 00:00:00+00:00", "b": "eA=="}', ""]


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_columns_that_widen_on_the_way_widen_in_the_whole_file(
    run: Callable[..., Result], service: LiveService, client: Client, tmp_path: Path, ending: str
) -> None:
    service.holds_jobs = True
    job = client.submit("echo", rows=[{"a": 1}])
    service.change(job.id, pa.table({"a": [1, 2], "b": pa.nulls(2)}))
    service.change(job.id, pa.table({"a": [2.5], "b": ["x"], "c": [True]}))
    service.change(job.id, pa.table({"b": ["y"]}), state=JobState.COMPLETED)
    path = tmp_path / f"x.{ending}"
    assert run(job.id, "-o", path).exit_code == 0
    assert _read(path).to_pylist() == [
        {"a": 1.0, "b": None, "c": None},
        {"a": 2.0, "b": None, "c": None},
        {"a": 2.5, "b": "x", "c": True},
        {"a": None, "b": "y", "c": None},
    ]
    assert list(tmp_path.iterdir()) == [path]


def test_columns_that_change_cannot_be_csv_and_leave_no_file(
    run: Callable[..., Result], service: LiveService, client: Client, tmp_path: Path
) -> None:
    service.holds_jobs = True
    job = client.submit("echo", rows=[{"a": 1}])
    service.change(job.id, pa.table({"a": [1]}))
    service.change(job.id, pa.table({"b": [1]}), state=JobState.COMPLETED)
    done = run(job.id, "-o", tmp_path / "x.csv")
    assert done.exit_code == 2
    assert ".parquet or .jsonl" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["parquet", "arrow", "csv", "jsonl"])
def test_an_empty_result_is_an_empty_file(
    run: Callable[..., Result], client: Client, tmp_path: Path, ending: str
) -> None:
    job = client.submit("echo", rows=[])
    path = tmp_path / f"x.{ending}"
    assert run(job.id, "-o", path).exit_code == 0
    if ending in ("parquet", "arrow"):
        assert _read(path).num_rows == 0
    else:
        assert path.read_bytes() == b""


def test_a_failed_job_gives_what_it_has_and_exit_code_1(
    run: Callable[..., Result], service: LiveService, client: Client, tmp_path: Path
) -> None:
    service.holds_jobs = True
    job = client.submit("echo", rows=[{"a": 1}])
    service.change(job.id, pa.table({"a": [1, 2]}))
    service.fail(job.id)
    done = run(job.id)
    assert (done.exit_code, done.stdout) == (1, '{"a":1}\n{"a":2}\n')
    assert done.stderr == f"error: {job.id} failed: the model has no weights\n"
    path = tmp_path / "x.parquet"
    done = run(job.id, "-o", path)
    assert (done.exit_code, _read(path).num_rows) == (1, 2)
    assert f"Its 2 finished rows are in {path}" in done.stderr


def test_a_cancelled_job_gives_what_it_kept_and_exit_code_1(
    run: Callable[..., Result], service: LiveService, client: Client
) -> None:
    service.holds_jobs = True
    job = client.submit("echo", rows=[{"a": 1}])
    service.change(job.id, pa.table({"a": [1]}))
    job.cancel()
    service.ended(job.id)
    done = run(job.id)
    assert (done.exit_code, done.stdout) == (1, '{"a":1}\n')
    assert "cancelled" in done.stderr


def test_failed_rows_are_reported_on_stderr(run: Callable[..., Result], service: LiveService, client: Client) -> None:
    service.holds_jobs = True
    job = client.submit("echo", rows=[{"a": 1}])
    service.change(job.id, state=JobState.COMPLETED, rows_dead=2)
    done = run(job.id)
    assert (done.exit_code, done.stderr) == (0, "2 failed rows are not included\n")


@pytest.mark.parametrize("name", ["x.xlsx", "x", "no-such-folder/x.csv", "."])
def test_a_file_that_cannot_be_is_refused_before_anything_is_fetched(
    run: Callable[..., Result], service: LiveService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("job-1", "-o", name)
    assert done.exit_code == 2
    assert service.requests == []


def test_a_broken_download_leaves_the_old_file_alone(
    run: Callable[..., Result], service: LiveService, job: Job, tmp_path: Path
) -> None:
    path = tmp_path / "x.arrow"
    path.write_text("old")
    service.faults += [Fault("GET", "/results"), Fault("GET", "/results", ends_at=100)]
    done = run(job.id, "-o", path)
    assert done.exit_code == 1
    assert "page of results" in done.stderr
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lines_page_that_is_cut_off_is_refused() -> None:
    page = ResultPage(b'{"a": 1}\n{"a"', rows=2, next_cursor="", is_last=True, state=None)
    with pytest.raises(Exception, match="expected 2 lines in a page of results, got 1"):
        page.lines()


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    sink = pa.BufferOutputStream()
    table = pa.table({"b": [bytes(1_000_000)] * 8})
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    page = ResultPage(sink.getvalue().to_pybytes(), rows=8, next_cursor="", is_last=False, state=None)
    before = pa.total_allocated_bytes()
    with open_export(tmp_path / "x.parquet") as export:
        for _ in range(40):
            export.write(page)
            assert pa.total_allocated_bytes() - before < 100_000_000
        export.finish(tmp_path / "x.parquet")
    assert pq.ParquetFile(tmp_path / "x.parquet").metadata.num_rows == 320


def test_a_reader_that_leaves_early_ends_the_command_without_a_word(service: LiveService, client: Client) -> None:
    job = client.submit("echo", rows=pa.table({"text": ["x" * 100] * 50_000}))
    environment = os.environ | {"BATCHMILL_URL": service.url, "BATCHMILL_TOKEN": service.token}
    command = [sys.executable, "-c", "import batchmill.cli; batchmill.cli.main()", "results", job.id]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(90) == 141


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_slow_reader_of_a_pipe_gets_every_row(service: LiveService, client: Client, unbuffered: str) -> None:
    job = client.submit("echo", rows=pa.table({"id": range(50_000), "text": ["x" * 50] * 50_000}))
    environment = os.environ | {
        "BATCHMILL_URL": service.url,
        "BATCHMILL_TOKEN": service.token,
        "PYTHONUNBUFFERED": unbuffered,
    }
    command = [sys.executable, "-c", "import batchmill.cli; batchmill.cli.main()", "results", job.id]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=True)
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == list(range(50_000))


def test_plain_lines_come_at_most_every_few_seconds(tmp_path: Path) -> None:
    clock = HandClock()
    path = tmp_path / "log"
    with path.open("w") as out:
        lines = PlainLines(out, clock)
        for second in range(int(LINE_INTERVAL_S * 3)):
            clock.now_s = float(second)
            lines.show(JobStatus(id="job-1", state=JobState.RUNNING, operator="echo", created_at=0, rows_done=second))
    assert [line.split()[2] for line in path.read_text().splitlines()] == ["0", "5", "10"]
