"""Plans against a real service: a sample of the rows is run, and says what all of them will take."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill import Conflict, InvalidRequest, InvalidSource, NotFound, Stage
from support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    import batchmill
    from batchmill.insights.plans import Plan, PlanOutcome

SIZES = {"size": 20, "overlap": 2}


def write(path: Path, texts: list[str]) -> Path:
    pq.write_table(pa.table({"text": texts}), path)
    return path


def outcome_of(client: batchmill.Client, plan: Plan) -> PlanOutcome:
    until(lambda: client.find_plan(plan.id).outcome is not None, "the comparison of the job with its plan")
    found = client.find_plan(plan.id).outcome
    assert found is not None
    return found


def test_a_plan_says_what_a_job_takes_and_then_what_it_took(client: batchmill.Client, tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", [f"row {number}" for number in range(30_000)])
    before = {job.id for job in client.jobs()}
    plan = client.plan("echo", source=source, name="planned", output=tmp_path / "out")
    assert (plan.state, plan.rows, plan.rows_are_exact, plan.title) == ("ready", 30_000, True, "echo")
    assert 128 < plan.sampled_rows <= 20_000
    assert plan.work is not None
    assert plan.cost is not None
    assert 0 < plan.work.low < plan.work.value < plan.work.high
    assert (plan.cost.value, plan.currency) == (0.0, "USD")  # no price is set
    assert {one.workers for one in plan.times} == {1, 2, 4, 8}
    assert plan.workers == 2
    by_workers = {one.workers: one.seconds.value for one in plan.times}
    assert by_workers[1] > by_workers[2]
    assert by_workers[4] > by_workers[8]  # these have workers that load a model first
    (stage,) = plan.stages
    assert (stage.rows, stage.failing.value) == (30_000, 0)
    assert {job.id for job in client.jobs()} == before  # the rounds are deleted
    assert not (tmp_path / "out").exists()

    job = client.submit_plan(plan)
    assert client.submit_plan(plan.id).id == job.id
    assert job.wait().status().rows_done == 30_000
    assert job.status().name == "planned"
    assert pq.read_table(tmp_path / "out")["text"].to_pylist() == [f"row {number}" for number in range(30_000)]
    outcome = outcome_of(client, plan)
    assert outcome.planned_device_s == plan.work
    assert outcome.device_s > 0
    assert client.plans(1)[0].job == job.id
    again = client.plan("echo", source=source)
    assert again.past is not None
    assert again.past.plans >= 1


def test_rows_that_fail_in_the_sample_are_expected_in_the_job(client: batchmill.Client) -> None:
    rows = [{"text": None if number % 10 == 0 else f"row {number}"} for number in range(4000)]
    plan = client.plan("chunk", rows, params=SIZES)
    (stage,) = plan.stages
    assert plan.errors.keys() == {"MissingValue"}
    assert stage.failing.low <= 400 <= stage.failing.high
    job = client.submit_plan(plan).wait().status()
    assert job.rows_dead == 400


def test_a_chain_is_planned_stage_by_stage(client: batchmill.Client) -> None:
    rows = [{"text": "one two three four five six " * (4 + number % 7)} for number in range(3000)]
    stages = [Stage("chunk", params=SIZES), Stage("echo", name="after")]
    plan = client.plan(stages=stages, rows=rows)
    assert plan.title == "chunk → after"
    chunk, after = plan.stages
    assert chunk.rows == 3000
    job = client.submit_plan(plan)
    job.wait()
    assert after.rows == pytest.approx(job.status().stages["after"].rows_done, rel=0.1)


def test_a_deadline_that_cannot_be_held_is_refused_with_what_would_do(client: batchmill.Client, tmp_path: Path) -> None:
    source = write(tmp_path / "in.parquet", [f"row {number}" for number in range(20_000)])
    plan = client.plan("echo", source=source, deadline=0.001)
    assert plan.deadline is not None
    assert not plan.deadline.is_possible
    with pytest.raises(
        InvalidRequest, match=r"the deadline leaves 0\.0 s, and by the plan .* with 2 workers"
    ) as raised:
        client.submit_plan(plan)
    assert "a deadline of" in raised.value.hint
    assert client.find_plan(plan.id).job is None
    possible = client.plan("echo", source=source, deadline="1h")
    assert possible.deadline is not None
    assert (possible.deadline.is_possible, possible.deadline.workers) == (True, 1)
    assert client.submit_plan(possible).wait().status().rows_done == 20_000


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"operator": "no-such"}, "no worker has an operator 'no-such'"),
        ({"operator": "chunk", "params": {"size": "many"}}, "size"),
    ],
)
def test_a_request_that_is_wrong_is_refused_before_anything_is_run(
    client: batchmill.Client, options: dict[str, Any], error: str
) -> None:
    with pytest.raises(InvalidRequest, match=error):
        client.plan(rows=[{"text": "a"}], **options)


def test_a_source_that_is_not_there_is_named(client: batchmill.Client, tmp_path: Path) -> None:
    with pytest.raises(InvalidSource, match=r"none\.parquet"):
        client.plan("echo", source=tmp_path / "none.parquet")


def test_a_plan_fails_with_the_reason_of_its_sample(client: batchmill.Client) -> None:
    rows = [{"text": "a"}] * 50
    with pytest.raises(InvalidRequest, match="body"):
        client.plan("chunk", rows, params={**SIZES, "column": "body"})
    failed = client.plans(1)[0]
    assert failed.state == "failed"
    with pytest.raises(Conflict, match="it is failed"):
        client.submit_plan(failed)
    with pytest.raises(NotFound, match="there is no plan"):
        client.find_plan("plan-no-such")


@pytest.mark.slow
def test_the_command_line_plans_and_submits_from_a_plan(
    service_record: dict[str, str], client: batchmill.Client, tmp_path: Path
) -> None:
    source = write(tmp_path / "in.parquet", [f"row {number}" for number in range(5000)])
    env = {"BATCHMILL_URL": service_record["url"], "BATCHMILL_TOKEN": service_record["token"], "PATH": "/usr/bin"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "batchmill", *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    shown = run("submit", "echo", str(source), "--plan")
    assert shown.returncode == 0, shown.stderr
    plan = client.plans(1)[0]
    assert f"batchmill submit --from-plan {plan.id}" in shown.stdout
    assert "8 workers:" in shown.stdout
    refused = run("submit", "echo", str(source), "--from-plan", plan.id)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--from-plan submits a job as it was planned" in refused.stderr
    submitted = run("submit", "--from-plan", plan.id, "--wait", "--json")
    assert submitted.returncode == 0, submitted.stderr
    assert json.loads(submitted.stdout.splitlines()[-1])["rows_done"] == 5000
    outcome_of(client, plan)
    listed = run("plans")
    assert plan.id in listed.stdout
    assert "took:" in run("plans", plan.id).stdout
