"""Plans beside the jobs that were submitted from them, on one worker: how far off, and whether the interval held."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchmill import Stage
from benchmarks.bare_embed import MODEL
from benchmarks.figures import Bar, Figure, Report
from benchmarks.stack import processes, service
from benchmarks.texts import texts

if TYPE_CHECKING:
    from batchmill import Client
    from batchmill.insights.plans import PlanOutcome
    from benchmarks.scale import Scale

NAME = "plan"
EMBED = {"model": f"package:{MODEL}", "backend": "torch"}
CHUNK = {"size": 100, "overlap": 10, "tokenizer": f"package:{MODEL}"}
KINDS: dict[str, dict[str, Any]] = {
    "embed": {"operator": "embed", "params": EMBED},
    "chain": {"stages": [Stage("chunk", params=CHUNK), Stage("embed", params=EMBED)]},
}
OUTCOME_S = 30.0
LOOK_INTERVAL_S = 0.1
HELD = 0.8  # of the jobs whose time is in the interval of the plan


def measure(scale: Scale) -> Report:
    """Every kind of job over every corpus, `scale.embed_runs` times over."""
    device: dict[str, list[float]] = defaultdict(list)
    outcomes: list[PlanOutcome] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        client = stack.enter_context(service(stack.enter_context(processes(folder)), 1)).client
        corpora = _write_corpora(folder, scale.embed_rows)
        for _ in range(scale.embed_runs):
            for corpus, path in corpora.items():
                for kind, job in KINDS.items():
                    outcome = _compare(client, {**job, "source": path})
                    outcomes.append(outcome)
                    device[f"{kind}, {corpus}"].append(100 * (outcome.device_s / outcome.planned_device_s.value - 1))
    seconds = [one.seconds / one.planned_s.value - 1 for one in outcomes]
    figures = [
        *(Figure(f"device time over that of the plan, {name}", "%", runs) for name, runs in device.items()),
        Figure("time from start to end over that of the plan", "%", [100 * one for one in seconds]),
        Figure("seconds of a job", "s", [one.seconds for one in outcomes]),
    ]
    bars = [
        Bar(f"off by, {what}, median", statistics.median(map(abs, errors)), "at most", 10, "%")
        for what, errors in (
            ("device time and cost", [error for runs in device.values() for error in runs]),
            ("time", [100 * one for one in seconds]),
        )
    ]
    bars += [
        Bar(f"off by, device time, {name}, median", statistics.median(map(abs, runs)), "at most", 10, "%")
        for name, runs in device.items()
    ]
    held = sum(one.is_within for one in outcomes)
    bars.append(Bar("intervals that held", held / len(outcomes), "at least", HELD, ""))
    settings = {"rows": scale.embed_rows, "runs": scale.embed_runs, "model": MODEL}
    return Report(NAME, settings, figures, bars, [f"{held} of {len(outcomes)} intervals held, of 80 % each."])


def _write_corpora(folder: Path, rows: int) -> dict[str, Path]:
    """Three corpora of real texts: mixed, sorted by length, and pages of very different lengths."""
    mixed = texts(rows)
    rng = random.Random(1)  # noqa: S311  # lengths, no secret
    pages, left = [], list(mixed)
    while left:
        count = max(int(rng.lognormvariate(0.7, 0.9)), 1)
        pages.append("\n\n".join(left[:count]))
        del left[:count]
    found = {}
    for name, corpus in {"mixed": mixed, "sorted": sorted(mixed, key=len), "pages": pages}.items():
        found[name] = folder / f"{name}.parquet"
        pq.write_table(pa.table({"text": corpus}), found[name])
    return found


def _compare(client: Client, job: dict[str, Any]) -> PlanOutcome:
    """Plan a job, run it, and return what the service kept of both."""
    plan = client.plan(**job)
    client.submit_plan(plan).wait(1800)
    ends_at = time.monotonic() + OUTCOME_S
    while (found := client.find_plan(plan.id).outcome) is None:
        if time.monotonic() > ends_at:
            raise RuntimeError("the service has not compared the job with its plan")
        time.sleep(LOOK_INTERVAL_S)
    return found
