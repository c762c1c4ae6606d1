"""Histories of operators from real workers: what jobs took, and the command line that shows it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from support.waiting import until

if TYPE_CHECKING:
    import batchmill
    from batchmill.insights.trends import Trend


def test_jobs_are_points_in_the_history_of_their_operator(
    client: batchmill.Client, service_record: dict[str, str]
) -> None:
    params = {"size": 30, "overlap": 3}
    rows = [{"text": f"one two three four five six seven eight nine {number} " * 5} for number in range(200)]
    for _ in range(3):
        client.submit("chunk", rows, params=params).wait()

    def found() -> list[Trend]:
        return [
            one for one in client.trends("chunk") if [point.units for point in one.points] == [one.points[0].units] * 3
        ]

    until(lambda: bool(found()), "a point for each of the three jobs")
    (trend,) = found()
    assert trend.jobs == len(trend.points)
    assert trend.shift is None
    assert trend.device_type.startswith("cpu")
    point = trend.points[-1]
    assert point.unit_s > 0
    assert {"batchmill", "operator", "host", "cores"} <= point.facts.keys()
    assert all(one.points == [] for one in client.trends())
    env = {"BATCHMILL_URL": service_record["url"], "BATCHMILL_TOKEN": service_record["token"], "PATH": "/usr/bin"}
    shown = subprocess.run(
        [sys.executable, "-m", "batchmill", "trends", "chunk"], env=env, capture_output=True, text=True, check=True
    )
    header, *lines = shown.stdout.splitlines()
    assert header.split("\t")[:3] == ["OPERATOR", "PARAMS", "DEVICE"]
    assert any(line.split("\t")[:2] == ["chunk", trend.params] for line in lines)
