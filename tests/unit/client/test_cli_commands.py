from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import datetime
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from batchmill.cli import main
from batchmill.cli.fleet.workers import parameters
from batchmill.errors import StorageError
from batchmill.jobs.files import FileSource
from batchmill.jobs.job import JobState
from batchmill.wording import duration
from support.fault_proxy import Fault

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.live_service import LiveService


ROWS = "".join(json.dumps({"id": i, "text": f"row {i}"}) + "\n" for i in range(5))


def test_rows_from_stdin_are_submitted_followed_and_summed_up_in_one_last_line(
    run: Callable[..., Result], service: LiveService
) -> None:
    done = run("submit", "echo", "-", "--wait", input=ROWS)
    assert done.exit_code == 0
    job_id = service.only_job()
    lines = done.stdout.splitlines()
    assert lines[0] == f"{job_id} submitted"
    assert lines[-1].startswith(f"{job_id} completed: 5 rows done in ")
    assert lines[-1].endswith(f"; `batchmill results {job_id}` prints the results")
    assert service.last_rows().to_pylist()[4] == {"id": 4, "text": "row 4"}


def test_options_become_the_order(
    run: Callable[..., Result], service: LiveService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_text(ROWS)
    service.holds_jobs = True
    args = ["submit", "anything", "a.jsonl", "b.jsonl", "--param", "model=plain text", "-p", "n=3", "-p", 'l=["a"]']
    args += ["-p", "e=a=b", "--output", "out", "--output-format", "jsonl", "--carry", "id, text", "--name", "mine"]
    args += ["--pool", "gpu", "--priority", "5", "--idempotency-key", "k", "--format", "jsonl", "--columns", "id,text"]
    assert run(*args).exit_code == 0
    order = service.last_order()
    assert order.params == {"model": "plain text", "n": 3, "l": ["a"], "e": "a=b"}
    assert isinstance(order.source, FileSource)
    assert order.output is not None
    assert order.source.path == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"]
    assert (order.source.format, order.source.columns) == ("jsonl", ["id", "text"])
    assert (order.output.path, order.output.format) == (f"{tmp_path}/out", "jsonl")
    assert (order.carry, order.name, order.pool) == (["id", "text"], "mine", "gpu")
    assert (order.priority, order.idempotency_key) == (5, "k")


def test_the_size_of_output_files_is_given_beside_a_job_file(
    run: Callable[..., Result], service: LiveService, tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_text(ROWS)
    pipe = tmp_path / "pipe.toml"
    pipe.write_text("source = 'in.jsonl'\n[[stages]]\noperator = 'anything'\n")
    service.holds_jobs = True
    done = run("submit", str(pipe), "--output", str(tmp_path / "out"), "--max-rows-per-file", "1000")
    assert done.exit_code == 0, done.stderr
    output = service.last_order().output
    assert output is not None
    assert output.max_rows_per_file == 1000
    refused = run("submit", str(pipe), "--param", "a=1")
    assert refused.exit_code == 2
    assert "--param cannot be combined with a job file" in refused.stderr


def test_submit_as_json_writes_one_object_and_nothing_else(run: Callable[..., Result]) -> None:
    for args, field in ((["--json"], "rows_total"), (["--json", "--wait"], "rows_done")):
        done = run("submit", "echo", "-", *args, input=ROWS)
        assert json.loads(done.stdout)[field] == 5
        assert done.stderr == ""


def test_submit_without_waiting_says_how_to_follow(
    run: Callable[..., Result], service: LiveService, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(ROWS)
    done = run("submit", "echo", str(tmp_path))
    job_id = service.only_job()
    assert done.stdout == f"{job_id} submitted; `batchmill watch {job_id}` follows it\n"


def test_failed_rows_and_the_output_folder_are_in_the_outcome(
    run: Callable[..., Result], service: LiveService, tmp_path: Path
) -> None:
    service.holds_jobs = True
    run("submit", "echo", "-", "--output", str(tmp_path / "out"), input=ROWS)
    job_id = service.only_job()
    service.change(job_id, state=JobState.COMPLETED, rows_done=4, rows_dead=1)
    last = run("watch", job_id).stdout.splitlines()[-1]
    assert "4 rows done" in last
    assert f"; 1 row failed (not in the results); `batchmill dead {job_id}` shows why" in last
    assert last.endswith(f"; results in {tmp_path}/out")


def test_a_failed_job_ends_with_its_reason_and_exit_code_1(run: Callable[..., Result], service: LiveService) -> None:
    service.holds_jobs = True
    run("submit", "echo", "-", input=ROWS)
    job_id = service.only_job()
    service.fail(job_id, "the model\nhas no weights")
    done = run("watch", job_id)
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1].endswith(
        f" s: the model has no weights; `batchmill logs {job_id} -v` shows tracebacks"
    )
    as_json = run("watch", job_id, "--json")
    assert (as_json.exit_code, json.loads(as_json.stdout)["state"]) == (1, "failed")


def test_status_shows_what_is_known_and_exits_with_0(run: Callable[..., Result], service: LiveService) -> None:
    service.holds_jobs = True
    run("submit", "echo", "-", "--name", "mine", input=ROWS)
    job_id = service.only_job()
    service.change(job_id, rows_done=2, rows_per_second=10.0, eta_s=75.0, note="a worker with the operator echo")
    shown = run("status", job_id).stdout
    for text in (job_id, "running", "mine", "2 of 5 rows", "10 rows/s, 1 min 15 s left", "a worker with the operator"):
        assert text in shown
    service.fail(job_id)
    done = run("status", job_id, "--json")
    assert (done.exit_code, json.loads(done.stdout)["error"]["code"]) == (0, "invalid_operator")


def test_cancel_stops_a_job(run: Callable[..., Result], service: LiveService) -> None:
    service.holds_jobs = True
    run("submit", "echo", "-", input=ROWS)
    job_id = service.only_job()
    assert run("cancel", job_id).stdout.startswith(f"{job_id} cancel")
    service.ended(job_id)
    assert run("cancel", job_id).stdout.startswith(f"{job_id} cancelled after 0 rows")
    assert json.loads(run("cancel", job_id, "--json").stdout)["state"] == "cancelled"
    assert run("watch", job_id).exit_code == 1


def test_a_paused_job_is_resumed_and_an_ended_one_cannot_be_paused(
    run: Callable[..., Result], service: LiveService
) -> None:
    service.holds_jobs = True
    run("submit", "echo", "-", input=ROWS)
    job_id = service.only_job()
    assert run("pause", job_id).stdout == (f"{job_id} paused: 0 of 5 rows; `batchmill resume {job_id}` resumes it\n")
    assert "paused" in run("status", job_id).stdout
    assert json.loads(run("resume", job_id, "--json").stdout)["state"] == "running"
    service.change(job_id, state=JobState.COMPLETED)
    done = run("pause", job_id)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "has ended (completed) and cannot be paused" in done.stderr


def test_delete_removes_an_ended_job(run: Callable[..., Result], service: LiveService) -> None:
    service.holds_jobs = True
    run("submit", "echo", "-", input=ROWS)
    job_id = service.only_job()
    assert run("delete", job_id).exit_code == 2
    service.change(job_id, state=JobState.COMPLETED)
    assert run("delete", job_id).stdout == f"{job_id} deleted\n"
    assert service.job_ids() == []


def test_an_expired_job_says_so_and_exits_with_1(run: Callable[..., Result], service: LiveService) -> None:
    service.holds_jobs = True
    run("submit", "echo", "-", "--deadline", "2999-01-31T17:00+01:00", input=ROWS)
    job_id = service.only_job()
    assert "2999-01-31" in run("status", job_id).stdout
    service.change(job_id, state=JobState.EXPIRED, rows_done=2)
    done = run("watch", job_id)
    assert done.exit_code == 1
    assert f"{job_id} expired after 2 rows" in done.stdout
    told = run("results", job_id)
    assert told.exit_code == 1
    assert "the job's deadline passed" in told.stderr


@pytest.mark.parametrize(
    ("given", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("0.5h", 1800), ("2d", 172_800)]
)
def test_a_deadline_from_now_has_a_unit(
    run: Callable[..., Result], service: LiveService, given: str, seconds: float
) -> None:
    assert run("submit", "echo", "-", "--deadline", given, input=ROWS).exit_code == 0
    assert service.last_order().deadline == seconds


def test_a_deadline_without_a_zone_is_local_time(run: Callable[..., Result], service: LiveService) -> None:
    assert run("submit", "echo", "-", "--deadline", "2999-12-31T12:00", input=ROWS).exit_code == 0
    moment = datetime(2999, 12, 31, 12).astimezone()
    assert service.last_order().deadline_at == moment.timestamp()


def test_jobs_are_listed_newest_first(run: Callable[..., Result], service: LiveService) -> None:
    for name in ("one", "two", "three"):
        run("submit", "echo", "-", "--name", name, input=ROWS)
    lines = [line.split("\t") for line in run("jobs", "-n", "2").stdout.splitlines()]
    newest = service.job_ids()[:2]
    assert [line[0] for line in lines] == ["JOB", *newest]
    every = [json.loads(line) for line in run("jobs", "--all", "--json").stdout.splitlines()]
    assert [one["id"] for one in every] == service.job_ids()


def test_workers_and_operators_are_listed(run: Callable[..., Result]) -> None:
    shown = run("workers").stdout
    # The worker may have said last that it was busy, in the test before.
    assert re.search(
        r"cpu0@here\tdefault\tcpu\t.*echo, embed.*\t[01] of 1\tembed 18 rows, 950 units \(overhead\)", shown
    )
    assert json.loads(run("workers", "--json").stdout)["name"] == "cpu0@here"
    assert "\tmodel, none, " in next(line for line in run("operators").stdout.splitlines() if "anything\t" in line)
    assert "similarity\t" in run("operators").stdout
    assert {"echo", "embed"} <= {json.loads(line)["name"] for line in run("operators", "--json").stdout.splitlines()}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["submit", "echo"], "the source is missing"),
        (["submit", "pipe.tml"], "A job file ends in .toml or .json"),
        (
            ["submit", "docs.jsonl"],
            "'docs.jsonl' is a source, which follows it. `batchmill submit OPERATOR docs.jsonl`",
        ),
        (["submit", "-"], "the operator is missing"),
        (["run", "data/*.csv"], "`batchmill run OPERATOR data/*.csv`"),
        (["run", "pipe.toml"], "`batchmill submit pipe.toml --wait`"),
        (["run", "echo"], "the source is missing"),
        (["run", "echo", "in.jsonl", "--set", "a=1"], "--set"),
        (["run", "echo", "no-such.jsonl"], "there is no file or folder 'no-such.jsonl'. Check the path."),
        (["submit", "embedd", "/data"], "Did you mean 'embed'"),
        (["submit", "echo", "/data", "--param", "model"], "NAME=VALUE"),
        (["submit", "echo", "/data", "-p", "a=1", "-p", "a=2"], "'a' is given twice"),
        (["submit", "echo", "/data", "--output-format", "jsonl"], "--output"),
        (["submit", "echo", "-", "/data"], "cannot be combined"),
        (["submit", "echo", "/data", "--priority", "1000"], "1000"),
        (["submit", "echo", "/data", "--priority", "high"], "'high' is not a valid integer."),
        (["submit", "echo", "/data", "--deadline", "soon"], "got 'soon'"),
        (["submit", "echo", "/data", "--deadline", "7200"], "30m, 2h"),
        (["submit", "echo", "/data", "--deadline", "2001-01-01"], "not in the future"),
        (["pause", "job-nope"], "job-nope"),
        (["resume", "job-nope"], "job-nope"),
        (["delete", "job-nope"], "job-nope"),
        (["submit", "echo", "-"], "stdin, line 2: expected a JSON object, got invalid JSON"),
        (["submitt"], "Did you mean 'submit'"),
        (["frobnicate"], "there is no command 'frobnicate'"),
        (["status"], "JOB"),
        (["status", "job-nope"], "job-nope"),
        (["results", "job-nope"], "job-nope"),
        (["status", ""], "job id"),
        (["watch", "../workers"], "../workers"),
        (["jobs", "--nope"], "--nope"),
        (["jobs", "--url", "nonsense"], "http://host:port"),
    ],
)
def test_bad_input_is_one_line_on_stderr_and_exit_code_2(
    run: Callable[..., Result], service: LiveService, args: list[str], words: str
) -> None:
    done = run(*args, input='{"a": 1}\n{broken\n')
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert service.job_ids() == []


def test_a_row_of_stdin_that_is_no_object_is_named_by_its_line(run: Callable[..., Result]) -> None:
    done = run("submit", "echo", "-", input='{"a": 1}\n\n[1]\n')
    assert "stdin, line 3: expected a JSON object, got a list" in done.stderr


@pytest.mark.parametrize("args", [["--token", "hidden-one"], ["--url", "http://127.0.0.1:9"]])
def test_no_service_or_a_wrong_token_is_exit_code_3(run: Callable[..., Result], args: list[str]) -> None:
    done = run("jobs", *args)
    assert done.exit_code == 3
    assert done.stderr.startswith("error: ")
    assert "hidden-one" not in done.stderr


def test_no_service_named_is_exit_code_3_and_says_what_to_do() -> None:
    done = CliRunner().invoke(main, ["jobs"])
    assert done.exit_code == 3
    assert "batchmill up" in done.stderr


def test_a_failure_of_the_service_is_exit_code_1(run: Callable[..., Result], service: LiveService) -> None:
    full = json.dumps(StorageError("the disk is full.").envelope())
    service.faults.append(Fault("GET", "/v1/jobs", answer=(507, full)))
    done = run("jobs")
    assert (done.exit_code, done.stderr) == (1, "error: the disk is full.\n")


def test_help_names_every_command_with_its_exit_codes_and_no_token(run: Callable[..., Result]) -> None:
    done = run("--help")
    for name in (
        "submit",
        "jobs",
        "status",
        "watch",
        "pause",
        "resume",
        "cancel",
        "delete",
        "results",
        "workers",
        "operators",
        "up",
        "worker",
    ):
        assert f"\n  {name} " in done.stdout
    assert "Exit codes" in done.stdout
    for name in ("submit", "results", "jobs"):
        shown = run(name, "--help").stdout
        assert "--url" in shown
        assert "a-token-of-the-tests" not in shown


def test_version_is_that_of_the_distribution(run: Callable[..., Result]) -> None:
    from importlib.metadata import version

    assert run("--version").stdout == f"batchmill {version('batchmill')}\n"


def test_a_command_imports_nothing_of_the_others() -> None:
    code = """
import sys, batchmill.cli
try:
    batchmill.cli.main(["jobs", "--help"])
except SystemExit:
    pass
loaded = {"batchmill.cli.submit", "batchmill_coordinator", "pyarrow", "aiohttp", "pydantic", "rich"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (12.4, "12 s"), (59.7, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_parameters_are_named_and_required_ones_marked() -> None:
    schema = {"properties": {"x": {"anyOf": [{"type": "integer"}, {"type": "null"}], "default": None}, "y": {}}}
    assert parameters(schema | {"required": ["y"]}) == "x, y*"
