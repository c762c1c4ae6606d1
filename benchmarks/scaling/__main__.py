"""Compare scaling policies on traces: `python -m benchmarks.scaling` (minutes), or with `--only` and `--trace`."""

from __future__ import annotations

import argparse
from collections.abc import Callable  # noqa: TC003  # of fields, which NamedTuple keeps
from pathlib import Path
from typing import NamedTuple

from benchmarks.scaling.policies import DrainTime, Fixed, IdleTimeout, Kubernetes, PerTask, Scaler, directly
from benchmarks.scaling.simulation import Applied, Outcome, Policy, Setup, Simulation
from benchmarks.scaling.traces import Job, batch_jobs, gentd26, servegen

START_S = 150.0


class Trace(NamedTuple):
    """Jobs and the time in which they are to be done. tuned: tasks for one worker that suit this trace best."""

    jobs: list[Job]
    target_s: float
    tuned: int


class Case(NamedTuple):
    """A policy, and what is between its number and the workers."""

    policy: Callable[[float], Policy]  # from the target time
    applied: Callable[[], Applied] = Kubernetes
    setup: Setup = Setup()
    error: float = 0.0


TRACES: dict[str, Callable[[], Trace]] = {
    "batch": lambda: Trace(batch_jobs(), 1800, 360),
    "bursty": lambda: Trace(servegen("m-small-11", 0.25), 300, 150),
    "steady": lambda: Trace(servegen("m-small-38", 0.008), 300, 150),
}


def at_once() -> Applied:
    """Apply numbers directly."""
    return directly


def cases(tuned: int) -> dict[str, Case]:
    """All policies by name."""
    plain = Setup(keeps_progress=False)
    return {
        "fixed, 8 workers": Case(lambda _: Fixed(8), setup=Setup(min_workers=8)),
        "in flight / 1": Case(lambda _: PerTask(1)),
        "waiting / 5, plain Celery": Case(lambda _: PerTask(5, "waiting"), setup=plain),
        "like KubeRay, idle 60 s": Case(lambda _: IdleTimeout(60), at_once),
        "planned shards / 2": Case(lambda _: PerTask(2, "planned")),
        f"in flight / {tuned}, tuned": Case(lambda _: PerTask(tuned)),
        "drain time, Kubernetes": Case(lambda target_s: DrainTime(target_s, START_S, hold=0)),
        "drain time, own hold": Case(lambda target_s: DrainTime(target_s, START_S), at_once),
        "drain time, no hold": Case(lambda target_s: DrainTime(target_s, START_S, hold=0), at_once),
        "drain time, pace wrong by 30 %": Case(lambda target_s: DrainTime(target_s, START_S), at_once, error=0.3),
        "drain time, pace 2x too low": Case(lambda target_s: DrainTime(target_s, START_S, pace=0.5), at_once),
        "drain time, pace 2x too high": Case(lambda target_s: DrainTime(target_s, START_S, pace=2), at_once),
        "Batchmill, Kubernetes": Case(lambda target_s: Scaler(target_s, START_S, hold=False)),
        "Batchmill, autoscale": Case(lambda target_s: Scaler(target_s, START_S), at_once),
    }


def simulate(trace: Trace, case: Case) -> Outcome:
    """Run one policy over one trace."""
    policy, applied = case.policy(trace.target_s), case.applied()
    return Simulation(trace.jobs, policy, applied, case.setup, trace.target_s, case.error).run()


def main() -> None:
    """Print a table for each trace."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trace", choices=sorted(TRACES), action="append", help="these only; repeatable")
    parser.add_argument("--gentd26", type=Path, help="GenTD26's lora_request_trace.csv, as a further trace")
    parser.add_argument("--only", default="", help="policies whose name contains this")
    asked = parser.parse_args()
    traces = {name: make for name, make in TRACES.items() if not asked.trace or name in asked.trace}
    if asked.gentd26:
        traces["GenTD26"] = lambda: Trace(gentd26(asked.gentd26), 300, 12)
    for name, make in traces.items():
        trace = make()
        work_h = sum(sum(job.tasks) for job in trace.jobs) / 3600
        print(f"\n{name}: {len(trace.jobs)} jobs, {work_h:.1f} device hours, target {trace.target_s:.0f} s")
        print("| policy | worker h | late | median s | 95 % s | starts | reversals | lost h |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for title, case in cases(trace.tuned).items():
            if asked.only in title:
                found = simulate(trace, case)
                print(
                    f"| {title} | {found.worker_h:.1f} | {found.late:.1%} | {found.p50_s:.0f} | {found.p95_s:.0f} "
                    f"| {found.starts} | {found.reversals} | {found.lost_h:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
