"""A trace of a complete service shows that loads, preparations and stores run beside the device."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from batchmill import Stage
from batchmill_worker.runtime.trace import read_trace
from support.cluster import Cluster
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 1500


def meet(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["ts"] < other["ts"] + other["dur"] and other["ts"] < one["ts"] + one["dur"])


def test_loading_preparing_and_storing_run_beside_the_device(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    with Cluster(tmp_path, "mill_operators", TRACE=trace, SHARD_TARGET_S=0.3) as cluster:
        cluster.start()
        job = cluster.clients["a"].submit("staged", rows=[{"id": n} for n in range(ROWS)])
        assert [row["out"] for row in job.results()] == list(range(ROWS))
        stages = [Stage("echo", name=name) for name in ("first", "second")]
        chain = cluster.clients["a"].submit(rows=[{"id": 1}], stages=stages, fuse=True).wait(GRACE_S)
    every = [one for one in read_trace(trace) if one["ph"] == "X"]
    named = {(one["args"]["stage"], one["args"].get("stage_name")) for one in every if one["args"]["job"] == chain.id}
    assert named >= {(0, "first"), (1, "second")}
    spans = [one for one in every if one["args"]["job"] == job.id]
    infers = [one for one in spans if one["name"] == "infer"]
    assert sum(one["args"]["rows"] for one in infers) == ROWS
    assert not any(meet(one, other) for one, other in pairwise(infers)), "one batch at a time"
    for phase in ("load", "prepare", "store"):
        found = sorted((one for one in spans if one["name"] == phase), key=lambda one: float(one["ts"]))
        # how many do is a matter of chance: a load takes less time than there is between two batches
        assert any(meet(one, other) for one in found for other in infers), f"{phase} runs beside the device"
