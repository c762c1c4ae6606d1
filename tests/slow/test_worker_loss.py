"""Workers die with all their power: their work is soon running elsewhere, and every row is there once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psutil
import pytest

from support.cluster import LEASE_S, Cluster
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ROWS = 40
SLACK_S = 8.0  # a busy machine's; what is promised is the lease and two seconds


@pytest.mark.parametrize("who", ["a slot", "its supervisor too"])
def test_the_work_of_a_process_that_is_killed_is_soon_running_elsewhere(
    cluster: Callable[..., Cluster], tmp_path: Path, who: str
) -> None:
    running = cluster().start(slots=(1, 1))
    gate, started = tmp_path / "gate", tmp_path / "gate.started"
    job = running.clients["a"].submit("gated", rows=[{"id": n} for n in range(ROWS)], params={"gate": str(gate)})
    until(lambda: started.exists() and bool(started.read_text()), "the first attempt")
    victim = int(started.read_text().split()[1])
    if who == "a slot":
        psutil.Process(victim).kill()
    else:
        (node,) = (each for each in running.supervisors.values() if victim in {slot.pid for slot in each.children()})
        node.kill()
    killed_at = time.monotonic()
    until(lambda: len(started.read_text().splitlines()) > 1, "the second attempt")
    assert time.monotonic() - killed_at < LEASE_S + 2 + SLACK_S
    gate.touch()
    results = list(job.results())
    assert [row["id"] for row in results] == list(range(ROWS))
    assert victim not in {row["pid"] for row in results}
    assert job.wait(timeout=GRACE_S).status().rows_dead == 0


def test_a_job_whose_workers_were_all_killed_is_finished_by_one_that_is_started_later(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    running = cluster().start(slots=(1, 1))
    gate = tmp_path / "gate"
    out = tmp_path / "out"
    rows = [{"id": n} for n in range(ROWS)]
    job = running.clients["a"].submit("gated", rows=rows, params={"gate": str(gate)}, output=out)
    until((tmp_path / "gate.started").exists, "the first attempt")
    for supervisor in list(running.supervisors.values()):
        supervisor.kill()
    running.supervisors.clear()
    gate.touch()
    until(lambda: "no worker of pool 'default' is running" in (job.status().note or ""), "the note of the idle job")
    running.start_supervisor(1)
    assert [row["id"] for row in job.results()] == list(range(ROWS))
    status = job.wait(timeout=GRACE_S).status()
    assert (status.state, status.rows_done, status.rows_dead) == ("completed", ROWS, 0)
