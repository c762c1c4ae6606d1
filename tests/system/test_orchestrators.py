"""The examples for Airflow and Dagster, each in an environment of its own, with jobs of a real service."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import batchmill
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(1800)

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
ROWS = [{"id": number} for number in range(3)]


def python_with(folder: Path, *packages: str) -> Path:
    """The interpreter of an environment with these packages and the client."""
    venv.create(folder, with_pip=True)
    found = folder / "bin" / "python"
    subprocess.run([found, "-m", "pip", "install", "--quiet", *packages, ROOT], check=True, timeout=1200)
    return found


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[batchmill.Client]:
    with batchmill.local(workers=1, data_dir=tmp_path_factory.mktemp("service")) as made:
        yield made


def run(client: batchmill.Client, python: Path, *command: str | Path, **settings: str) -> str:
    """What a command printed, which has the service's address."""
    token = str(client._async._transport.address.token)
    served = {"BATCHMILL_URL": client.url, "BATCHMILL_TOKEN": token, **settings}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    ended = subprocess.run(
        [python, *command], env=inherited | served, cwd=python.parent, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


def test_a_dag_submits_a_job_and_waits_for_its_end(client: batchmill.Client, tmp_path: Path) -> None:
    python = python_with(tmp_path / "airflow", "apache-airflow==3.3.2")
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    example = tmp_path / "home" / "dags" / "airflow_dag.py"
    example.parent.mkdir(parents=True)
    shutil.copyfile(ROOT / "examples" / "airflow_dag.py", example)
    settings = {
        "AIRFLOW_HOME": str(tmp_path / "home"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "OPERATOR": "echo",
        "SOURCE": str(source),
        "OUTPUT": str(tmp_path / "out"),
    }
    for command in (["db", "migrate"], ["dags", "reserialize"]):
        run(client, python, "-m", "airflow", *command, **settings)
    printed = run(client, python, HERE / "run_airflow_dag.py", example, **settings)
    ended: dict[str, Any] = json.loads(printed.splitlines()[-1])
    submitted = ended["values"]["submit"]
    assert ended["state"] == "success"
    assert ended["values"]["ended"] == {"job": submitted, "rows_done": 3, "rows_dead": 0}
    assert client.job(submitted).status().rows_done == 3


def test_a_sensor_starts_a_run_for_each_job_that_has_completed(client: batchmill.Client, tmp_path: Path) -> None:
    python = python_with(tmp_path / "dagster", "dagster==1.13.28")
    jobs = [client.submit("echo", rows=ROWS[:rows], name="for-dagster") for rows in (1, 2)]
    for job in (*jobs, client.submit("echo", rows=ROWS, name="other")):
        job.wait(timeout=GRACE_S)
    script, example = HERE / "run_dagster_sensor.py", ROOT / "examples" / "dagster_sensor.py"
    settings = {"JOB_NAME": "for-*", "DAGSTER_HOME": str(tmp_path)}
    found: dict[str, Any] = json.loads(run(client, python, script, example, **settings).splitlines()[-1])
    assert found == {"keys": [job.id for job in jobs], "rows": [1, 2]}
