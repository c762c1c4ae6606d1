"""The chaos run: a service with jobs, broken at random for a while, and then judged row by row.

1. A Valkey that keeps its data, two coordinators and two supervisors with three slots start, with short leases; where
   this machine permits it, with networks, disks and a clock of their own.
2. Users keep four jobs alive, with flaky, poisonous and killer rows, and pause and cancel some; others send rows to a
   stream that two more jobs read.
3. Faults strike, one after another, in the order that the seed gives, until the time is over.
4. Everything is repaired; all jobs must end.
5. Every row, counter, output and leftover is compared with what it must be.

With `--s3` the blobs are in a bucket of an S3 server, which breaks as well. Then no machine has a network of its own,
and no bit of a stored file changes. With `--partitions` nothing but the links of machines breaks.

The seed fixes jobs and faults and how long after one another they strike, not what they meet.
`make chaos` runs ten minutes, `make chaos-short` one.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

from chaos.bucket_faults import NAME, REGION, Bucket, BucketFaults
from chaos.cache_verdict import judge_row_cache
from chaos.chaos_operators import JOURNAL
from chaos.damage_faults import DamageFaults, judge_damage
from chaos.disk_faults import DiskFaults
from chaos.faults import DATA, MESSAGE, STORE, Faults, Repairs
from chaos.message_faults import MessageFaults
from chaos.partition_faults import PartitionFaults
from chaos.process_faults import LeaderFaults, WorkerFaults
from chaos.pulse import Pulse, spread
from chaos.store_faults import ClockFaults, StoreFaults
from chaos.stream_users import StreamUsers
from chaos.verdict import Verdict, judge_deletion, judge_ledger
from chaos.workload import Users
from support.cluster import Cluster
from support.networks import networks_are_permitted
from support.small_disk import SmallDisk, disks_are_permitted
from support.stepped_clock import SteppedClock, stepping_library

if TYPE_CHECKING:
    from chaos.faults import FaultSet, Struck

LOOK_S = 0.1
SETTLE_S = 180.0  # for all jobs to end once everything is repaired
SETTINGS = {
    "SHARD_TARGET_S": 0.3,
    "BATCH_TIMEOUT_S": 60,
    "ROW_CACHE_ROWS": 1500,  # so that rows make room
    "STRAGGLER_FACTOR": 1.0,  # so that what is slow for a moment is run twice
    "STRAGGLER_MIN_S": 0.2,
}
CALM_S = 3.0  # before the first fault
GAP_S = 3.0


def chaos(
    seed: int,
    seconds: float,
    folder: Path,
    *,
    in_bucket: bool = False,
    only_partitions: bool = False,
    gap_s: float = GAP_S,
) -> dict[str, Any]:
    """Run for that long, and judge; the report. Logs and outputs are left in `folder`.

    in_bucket: whether the blobs are in a bucket. only_partitions: whether nothing but the links of machines breaks.
    gap_s: between two faults, on average.
    """
    for name in ("journal", "out", "in", "empty"):
        (folder / name).mkdir()
    with ExitStack() as stack:
        environment = stack.enter_context(pytest.MonkeyPatch.context())
        environment.setenv(JOURNAL, str(folder / "journal"))
        means = Means(networks=True, disks=None, clock_library=None) if only_partitions else Means.of(folder, stack)
        settings: dict[str, object] = dict(SETTINGS)
        if in_bucket:
            environment.setenv("AWS_ACCESS_KEY_ID", "chaos")
            environment.setenv("AWS_SECRET_ACCESS_KEY", "chaos")
            means = means.with_bucket(stack.enter_context(Bucket()))
            settings |= means.blob_settings()
        clock = SteppedClock(folder / "clock", means.clock_library) if means.clock_library else None
        made = Cluster(folder, "chaos_operators", clock=clock, apart=means.networks, **settings)
        cluster = stack.enter_context(made)
        cluster.start(coordinators=2, slots=(2, 1))
        users, pulse, repairs = Users(cluster, folder, seed), Pulse(cluster), Repairs()
        chance = random.Random(seed)
        partitions = PartitionFaults(cluster, chance, repairs)
        sets = [partitions] if only_partitions else means.fault_sets(cluster, chance, repairs, users)
        faults = Faults(cluster, chance, repairs, sets)
        streams = StreamUsers(cluster, users.losses)
        pulse.start()
        users.start()
        streams.start()
        skipped = _strike(faults, random.Random(f"{seed}/gaps"), seconds, gap_s)
        faults.repair(all_of_it=True)
        faults.keep()
        users.stop()
        streams.stop()
        began = time.monotonic()
        left = users.settle(SETTLE_S)
        have_ended = streams.settle(SETTLE_S)
        settled_s = time.monotonic() - began
        pulse.stop()
        verdict = Verdict()
        if have_ended:
            streams.judge(verdict)
        else:
            verdict.broken += streams.unfinished() or ["the jobs over streams have ended too late"]
        stream_jobs = streams.job_ids if have_ended else []
        _judge(verdict, users, left, cluster, {fault.kind for fault in faults.struck}, stream_jobs)
        verdict.broken += users.complaints + streams.complaints + repairs.complaints
    found = {"seed": seed, "seconds": seconds, "settled_s": round(settled_s, 1), "holds": verdict.holds}
    counts = _counts(verdict, users, folder / "journal")
    missing = [] if only_partitions else means.missing()
    return found | counts | {"means_that_are_missing": missing} | _story(faults, pulse, skipped)


@dataclass(frozen=True, slots=True)
class Means:
    """What this machine permits to break. networks: of their own. disks: the blob store's and Valkey's.

    bucket: where the blobs are; None: on the disk.
    """

    networks: bool
    disks: tuple[SmallDisk, SmallDisk] | None
    clock_library: Path | None
    bucket: Bucket | None = None

    @classmethod
    def of(cls, folder: Path, stack: ExitStack) -> Means:
        """Find out; disks are mounted below the folder as long as `stack` lasts."""
        disks = None
        if disks_are_permitted(folder / "empty"):
            disks = (SmallDisk(folder / "blobs"), SmallDisk(folder / "store"))
            for disk in disks:
                stack.enter_context(disk)
        return cls(networks_are_permitted(), disks, stepping_library())

    def with_bucket(self, bucket: Bucket) -> Means:
        """Keep the blobs in a bucket. Networks of their own could not reach it."""
        return replace(self, networks=False, bucket=bucket)

    def blob_settings(self) -> dict[str, object]:
        """Return the settings of a service whose blobs are in the bucket."""
        assert self.bucket is not None
        return {"BLOB_ROOT": f"s3://{NAME}/blobs", "S3_ENDPOINT": self.bucket.endpoint, "S3_REGION": REGION}

    def fault_sets(self, cluster: Cluster, chance: random.Random, repairs: Repairs, users: Users) -> list[FaultSet]:
        """Make the faults that can be."""
        common = cluster, chance, repairs
        sets = [StoreFaults(*common, users.losing_changes), MessageFaults(*common), WorkerFaults(*common)]
        sets += [LeaderFaults(*common)]
        sets += [BucketFaults(*common, bucket=self.bucket)] if self.bucket else [DamageFaults(*common, users)]
        if self.networks:
            sets += [PartitionFaults(*common)]
        if self.disks:
            sets += [DiskFaults(*common, blobs=self.disks[0], store=self.disks[1])]
        if self.clock_library:
            sets += [ClockFaults(*common)]
        return sets

    def missing(self) -> list[str]:
        """Return what cannot be broken here, in words."""
        found = {
            "networks of their own (root)": self.networks,
            "disks of their own (root)": self.disks,
            "a clock of its own (the package libfaketime)": self.clock_library,
        }
        return [what for what, means in found.items() if not means]


def _strike(faults: Faults, gaps: random.Random, seconds: float, gap_s: float) -> dict[str, int]:
    """Let faults strike until the time is over; how many of each kind found nothing to strike."""
    ends_at = time.monotonic() + seconds
    next_at = time.monotonic() + CALM_S
    kinds, skipped = faults.schedule(), Counter[str]()
    while time.monotonic() < ends_at:
        faults.repair()
        faults.keep()
        if time.monotonic() >= next_at:
            kind = next(kinds)
            if faults.strike(kind):
                next_at = time.monotonic() + gaps.uniform(gap_s / 3, gap_s * 5 / 3)
            else:
                skipped[kind] += 1
        time.sleep(LOOK_S)
    return dict(skipped)


def _judge(
    verdict: Verdict, users: Users, left: list[Any], cluster: Cluster, struck: set[str], stream_jobs: list[str]
) -> None:
    if not left:
        judge_damage(verdict, users, cluster)
    for job in left:
        verdict.broken.append(f"job {job.plan.number} ({job.id}) has not ended: {job.status}")
    for job in users.jobs:
        if job.is_final:
            verdict.judge(job, cluster)
    if not left and stream_jobs:
        with cluster.redis() as client:
            judge_ledger(verdict, users.jobs, client)
        judge_deletion(verdict, users.jobs, cluster, users.unknown, stream_jobs)
        was_rolled_back = "stale_failover" in struck
        judge_row_cache(verdict, cluster, is_held="step_clock" in struck, was_rolled_back=was_rolled_back)


def _counts(verdict: Verdict, users: Users, journal: Path) -> dict[str, Any]:
    computed = _times_computed(users, journal)
    states = Counter(str(job.status.state) if job.status else "unknown" for job in users.jobs)
    return {
        "jobs": len(users.jobs),
        "replays": sum(job.replay_ended for job in users.jobs),
        "states": dict(states),
        "rows": verdict.rows,
        "rows_dead": verdict.rows_dead,
        "rows_cached": sum(job.status.rows_cached for job in users.jobs if job.status),
        "shards_run_twice": sum(
            stage.shards_speculated for job in users.jobs if job.status for stage in job.status.stages
        ),
        "rows_lost": verdict.rows_lost,
        "rows_doubled": verdict.rows_doubled,
        "rows_wrong": verdict.rows_wrong,
        "wrongly_dead": verdict.wrongly_dead,
        "results_damaged": len(users.damaged),
        "damage_unnoticed": verdict.damage_unnoticed,
        "rows_computed": len(computed),
        "rows_computed_again": {str(times): n for times, n in sorted(Counter(computed.values()).items()) if times > 1},
        "broken": verdict.broken,
    }


def _times_computed(users: Users, journal: Path) -> Counter[str]:
    """How often each row was computed of the jobs without the row cache; others have rows in common."""
    alone = {str(job.plan.label) for job in users.jobs if not job.plan.cached}
    lines = (line for path in journal.iterdir() for line in path.read_text().splitlines())
    return Counter(line for line in lines if line.split()[0] in alone)


def _story(faults: Faults, pulse: Pulse, skipped: dict[str, int]) -> dict[str, Any]:
    recovered = [(fault, pulse.recovery_s(fault)) for fault in faults.struck]
    kinds = sorted({fault.kind for fault, _ in recovered})
    alone = [(fault, took) for fault, took in recovered if took is not None and _was_alone(fault, took, faults.struck)]
    found = {kind: [took for fault, took in alone if fault.kind == kind] for kind in kinds}
    return {
        "recovery": {kind: spread(took) for kind, took in found.items() if took},
        "recoveries_that_another_fault_fell_into": len(recovered) - len(alone),
        "faults": [_described(fault, took, faults.struck[0].at) for fault, took in recovered],
        "faults_without_anything_to_strike": skipped,
    }


def _was_alone(fault: Struck, took: float, struck: list[Struck]) -> bool:
    """Whether nothing else was broken between a fault and the recovery from it."""
    until = (fault.undone_at or fault.at) + took if fault.target == STORE else fault.at + took
    others = [other for other in struck if other is not fault and other.target not in (MESSAGE, DATA)]
    return not any(other.at < until and (other.undone_at or other.at) > fault.at for other in others)


def _described(fault: Struck, took: float | None, began: float) -> dict[str, Any]:
    return {
        "at_s": round(fault.at - began, 2),
        "kind": fault.kind,
        "what": fault.what,
        "away_s": None if fault.undone_at is None else round(fault.undone_at - fault.at, 2),
        "recovery_s": None if took is None else round(took, 3),
    }


def summary(report: dict[str, Any]) -> str:
    """The report for a reader."""
    again = sum((int(times) - 1) * rows for times, rows in report["rows_computed_again"].items())
    states = ", ".join(f"{number} {state}" for state, number in report["states"].items())
    wrongs = ", ".join(f"{what} {report['rows_' + what]}" for what in ("lost", "doubled", "wrong"))
    lines = [
        f"seed {report['seed']}: {len(report['faults'])} faults in {report['seconds']:.0f} s",
        f"{report['jobs']} jobs: {states}; {report['replays']} with replays",
        f"{report['rows']} rows done, {report['rows_dead']} dead: {wrongs}, wrongly dead {report['wrongly_dead']}",
        f"{report['results_damaged']} jobs with damaged results: {report['damage_unnoticed']} unnoticed",
        f"without the row cache {report['rows_computed']} rows computed, {again} times again",
        f"with it {report['rows_cached']} rows from the cache",
        f"{report['shards_run_twice']} shards run a second time while the first attempt ran",
        "from a fault to the first commit (leader: dispatch; store: since it is back), if nothing else broke:",
        *(
            f"  {kind:17} {took['count']:3} times, median {took['median_s']:6.2f} s, at most {took['max_s']:6.2f} s"
            for kind, took in report["recovery"].items()
        ),
        f"  {report['recoveries_that_another_fault_fell_into']} more, with another fault in between",
        *(f"not broken, for want of {what}" for what in report["means_that_are_missing"]),
        *(f"BROKEN: {what}" for what in report["broken"]),
    ]
    return "\n".join(lines)


@click.command()
@click.option("--seed", type=int, help="Fixes jobs and faults.  [default: by chance]")
@click.option("--minutes", type=float, default=10.0, show_default=True, help="How long faults strike.")
@click.option("--s3", "in_bucket", is_flag=True, help="Keep the blobs in a bucket, which breaks as well.")
@click.option("--partitions", "only_partitions", is_flag=True, help="Break nothing but the links of machines.")
@click.option(
    "--gap", "gap_s", type=float, default=GAP_S, show_default=True, help="Seconds between faults, on average."
)
@click.option("--report", type=click.Path(path_type=Path), default=Path("chaos-report.json"), show_default=True)
def main(seed: int | None, minutes: float, in_bucket: bool, only_partitions: bool, gap_s: float, report: Path) -> None:
    """Break a service at random for a while, then compare every row with what it must be."""
    if only_partitions and (in_bucket or not networks_are_permitted()):
        raise click.UsageError("networks of their own need Linux, root, ip, unshare and nsenter, and no bucket")
    chosen = seed if seed is not None else random.SystemRandom().randrange(10**6)
    click.echo(f"chaos: seed {chosen}, {minutes:g} minutes", err=True)
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
        logs = report.with_name(f"{report.stem}-logs")
        try:
            how: dict[str, Any] = {"in_bucket": in_bucket, "only_partitions": only_partitions, "gap_s": gap_s}
            found = chaos(chosen, minutes * 60, Path(folder), **how)
        finally:
            shutil.copytree(Path(folder) / "logs", logs, dirs_exist_ok=True)
        report.write_text(json.dumps(found, indent=1) + "\n")
    click.echo(summary(found))
    click.echo(f"written to {report}; the logs are in {logs}", err=True)
    sys.exit(0 if found["holds"] else 1)


if __name__ == "__main__":
    main()
