"""`batchmill up`, killed and started again over the same folder; and two of them side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import batchmill

if TYPE_CHECKING:
    from conftest import Sandbox

SLOW = """
import time
import batchmill

@batchmill.operator("slow", batch_size=8)
def slow(rows):
    time.sleep(0.05)  # work
    return [{"double": row["number"] * 2} for row in rows]
"""
READY = "Ctrl-C stops it"

pytestmark = pytest.mark.timeout(240)


def test_a_service_that_was_killed_goes_on_with_its_job_and_gives_every_row_once(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    (sandbox.folder / "slow.py").write_text(SLOW)
    monkeypatch.setenv("BATCHMILL_DATA_DIR", str(sandbox.data))
    service = sandbox.start("batchmill up --operators slow", until=READY)
    with batchmill.Client() as client:
        job = client.submit("slow", rows=[{"number": number} for number in range(800)])
        before = next(status for status in job.watch() if status.rows_done)
    sandbox.kill(service)
    sandbox.start("batchmill up --operators slow", until=READY)

    with batchmill.Client() as client:
        rows = client.job(job.id).wait(120).to_table().to_pylist()

    assert before.rows_done < 800
    assert rows == [{"number": number, "double": 2 * number} for number in range(800)]


def test_two_services_on_one_machine_do_not_collide(sandbox: Sandbox) -> None:
    sandbox.start("batchmill up --data-dir one", until=READY)
    sandbox.start("batchmill up --data-dir two", until=READY)

    for name in ("one", "two"):
        submitted = f"""echo '{{"service": "{name}"}}' | batchmill submit echo - --name {name} --wait"""
        sandbox.run(submitted, BATCHMILL_DATA_DIR=str(sandbox.folder / name))

    for name in ("one", "two"):
        folder = str(sandbox.folder / name)
        jobs = sandbox.run("batchmill jobs --limit 10 | tail -n +2", BATCHMILL_DATA_DIR=folder).splitlines()
        (job,) = [line.split("\t") for line in jobs]
        assert job[1:4] == ["completed", "echo", name]
        assert sandbox.run(f"batchmill results {job[0]}", BATCHMILL_DATA_DIR=folder) == f'{{"service":"{name}"}}\n'
