"""Trials on real workers: the journal, and the command line that shows it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from batchmill.jobs.job import BatchPolicy
from support.waiting import until

if TYPE_CHECKING:
    import batchmill
    from batchmill.insights.trials import Trial


@pytest.mark.slow
def test_batches_of_jobs_are_compared_in_pairs(client: batchmill.Client, service_record: dict[str, str]) -> None:
    params = {"size": 31, "overlap": 3}
    rows = [{"text": f"one two three {number}"} for number in range(6_000)]

    def found() -> list[Trial]:
        job = client.submit("chunk", rows, params=params, batch=BatchPolicy(max_units=300))
        job.wait()
        assert sum(1 for _ in job.results()) == len(rows)
        return [one for one in client.trials("chunk") if one.pairs]

    until(lambda: bool(found()), "a trial with pairs")
    trial = found()[0]
    assert (trial.setting, trial.usual, trial.candidate) == ("batch_scale", 1.0, 0.5)  # max_units leaves no room for 2
    assert trial.device_type.startswith("cpu")
    assert 0 < (trial.low or 0) <= (trial.ratio or 0) <= (trial.high or 0)
    assert client.trials("none-of-that-name") == []
    env = {"BATCHMILL_URL": service_record["url"], "BATCHMILL_TOKEN": service_record["token"], "PATH": "/usr/bin"}
    shown = subprocess.run(
        [sys.executable, "-m", "batchmill", "trials", "chunk"], env=env, capture_output=True, text=True, check=True
    )
    header, *lines = shown.stdout.splitlines()
    assert header.split("\t")[:4] == ["OPERATOR", "PARAMS", "DEVICE", "SETTING"]
    assert any(line.split("\t")[:2] == ["chunk", trial.params] for line in lines)
