"""The log of a job and the version of the data formats, in a real ledger."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from batchmill.errors import InvalidSettings, NotFound
from batchmill.fleet import WorkerInfo
from batchmill.jobs.completion import Completion
from batchmill.jobs.cost import NANO, Parts
from batchmill.jobs.job import JobState
from batchmill.jobs.job_log import MAX_ENTRIES, LogEvent, LogLevel
from batchmill.jobs.shard import ShardId, ShardRef
from batchmill.ledger import Ledger
from batchmill.ledger.formats.schema import SCHEMA
from batchmill.ledger.scripting.connection import connect
from batchmill.ledger.submission import Submission
from batchmill.processes.parent_death import die_with_parent
from batchmill_coordinator.fleet.pools import PoolView
from batchmill_coordinator.metering.counts import RoleMetrics
from batchmill_coordinator.roles.watcher import MIN_BLOCKED_S, Watcher
from support.hand_clock import HandClock
from support.ledger_steps import LEASE_MS, plan, queue_one
from support.ledger_steps import submit as submit_job
from support.records import spec_of

if TYPE_CHECKING:
    from pathlib import Path

    import redis

JOB = "job-1"
WORKER = WorkerInfo(
    name="cpu0@here", pool="gpu", device="cpu", operators=["echo"], shards_at_once=1, pid=1, started_at=0.0
)


@dataclass
class Fleet:
    """The pools as a test has them."""

    views: dict[str, PoolView] = field(default_factory=dict)

    def pools(self) -> dict[str, PoolView]:
        return self.views


def submit(ledger: Ledger, job_id: str = JOB) -> None:
    spec = spec_of(operator="echo", pool="gpu")
    ledger.jobs.submit(Submission(job_id, spec, "digest"), max_live_jobs=100)


def told(ledger: Ledger) -> list[tuple[LogLevel, LogEvent, str]]:
    return [(entry.level, entry.event, entry.message) for entry in ledger.log.read(JOB).entries]


def test_an_entry_is_read_as_it_was_noted(ledger: Ledger) -> None:
    submit(ledger)
    ref = ShardRef(JOB, 1, ShardId((17, 0)), 3)
    ledger.log.note(
        JOB, LogLevel.ERROR, LogEvent.FAILED, "no\n  row", ref=ref, worker="cpu0@here", traceback="Traceback\n  x"
    )
    (entry,) = ledger.log.read(JOB).entries
    assert (entry.level, entry.event, entry.message) == (LogLevel.ERROR, LogEvent.FAILED, "no row")
    assert (entry.shard, entry.attempt, entry.worker) == ("1/17.0", 3, "cpu0@here")
    assert entry.traceback == "Traceback\n  x"
    assert abs(entry.at - ledger.now_ms() / 1000) < 60


def test_the_oldest_entries_make_room_and_long_ones_are_cut(
    ledger: Ledger, redis_client: redis.Redis, prefix: str
) -> None:
    submit(ledger)
    for number in range(MAX_ENTRIES + 5):
        ledger.log.note(JOB, LogLevel.WARNING, LogEvent.LOST, f"{number} {'x' * 9000}", traceback="y" * 9000)
    kept = ledger.log.read(JOB)
    assert (kept.noted, kept.held, len(kept.entries)) == (MAX_ENTRIES + 5, MAX_ENTRIES, MAX_ENTRIES)
    assert kept.entries[0].message.startswith("5 ")
    size = redis_client.memory_usage(f"{prefix}job:{{{JOB}}}:log", samples=0)
    assert size is not None
    assert size < 700_000


def test_a_log_goes_with_its_job_and_does_not_come_back(ledger: Ledger, redis_client: redis.Redis, prefix: str) -> None:
    submit(ledger)
    epoch = ledger.lead("me", 3600)
    ledger.log.note(JOB, LogLevel.WARNING, LogEvent.LOST, "it was lost")
    ledger.jobs.stop(JOB, JobState.CANCELLING, None)
    assert ledger.jobs.finish(ledger.jobs.read(JOB), JobState.CANCELLED, epoch)
    assert len(told(ledger)) == 1
    ledger.retention.mark_for_deletion(JOB)
    assert ledger.retention.forget(JOB)
    ledger.log.note(JOB, LogLevel.WARNING, LogEvent.LOST, "too late")
    assert list(redis_client.scan_iter(f"{prefix}job:*")) == []
    with pytest.raises(NotFound):
        ledger.log.read(JOB)


def test_a_note_fails_nobody_when_the_ledger_is_away(tmp_path: Path) -> None:
    Ledger(connect(f"unix://{tmp_path}/none?db=0"), "x:").log.note(JOB, LogLevel.INFO, LogEvent.LOST, "lost")


def test_pauses_and_resumptions_are_noted_once_each(ledger: Ledger) -> None:
    submit(ledger)
    for steer in (ledger.jobs.pause, ledger.jobs.pause, ledger.jobs.resume, ledger.jobs.resume):
        steer(JOB)
    assert [event for _, event, _ in told(ledger)] == [LogEvent.PAUSED, LogEvent.RESUMED]


def test_what_a_job_waits_for_is_noted_once_and_so_is_its_end(ledger: Ledger) -> None:
    submit(ledger)
    clock, fleet = HandClock(), Fleet()
    watcher = Watcher(ledger, fleet, clock, "USD", RoleMetrics(CollectorRegistry()))  # type: ignore[arg-type]  # a fleet of our own
    watcher.step(1)
    clock.now_s += MIN_BLOCKED_S / 2
    watcher.step(1)
    assert told(ledger) == []
    for _ in range(3):
        clock.now_s += MIN_BLOCKED_S
        watcher.step(1)
    ((level, event, message),) = told(ledger)
    assert (level, event) == (LogLevel.WARNING, LogEvent.BLOCKED)
    assert "no worker of pool 'gpu'" in message
    fleet.views = {"gpu": PoolView(1, 1, frozenset({"other"}))}
    watcher.step(1)
    clock.now_s += MIN_BLOCKED_S
    watcher.step(1)
    assert "has the operator 'echo'" in told(ledger)[1][2]
    fleet.views = {"gpu": PoolView(1, 1, frozenset({"echo"}))}
    for _ in range(2):
        watcher.step(1)
    assert [event for _, event, _ in told(ledger)] == [LogEvent.BLOCKED] * 2 + [LogEvent.UNBLOCKED]


def test_a_job_that_its_budget_holds_says_so_in_its_log_with_what_to_do(ledger: Ledger, epoch: int) -> None:
    submit_job(ledger, JOB, spec=spec_of(operator="echo", pool="gpu", budget=1.0))
    plan(ledger, epoch, [5, 5])
    clock, fleet = HandClock(), Fleet({"gpu": PoolView(1, 1, frozenset({"echo"}))})
    watcher = Watcher(ledger, fleet, clock, "EUR", RoleMetrics(CollectorRegistry()))  # type: ignore[arg-type]  # a fleet of our own
    ref = queue_one(ledger, epoch)
    claimed = ledger.shards.claim(ref, "gpu", "w1", LEASE_MS, with_job=False, price_nano=3600 * NANO)
    assert claimed is not None
    assert ledger.shards.commit(ref, Completion(5, 0, 1), used=Parts(useful=1_500_000))
    watcher.step(1)
    assert told(ledger) == []
    for _ in range(2):
        clock.now_s += MIN_BLOCKED_S
        watcher.step(1)
    why = f"it has cost 1.5 of its budget of 1 EUR; `batchmill resume {JOB} --budget N` gives it more"
    assert told(ledger) == [(LogLevel.WARNING, LogEvent.BLOCKED, why)]
    ledger.jobs.resume(JOB, 5.0)
    watcher.step(1)
    assert [event for _, event, _ in told(ledger)] == [LogEvent.BLOCKED, LogEvent.RESUMED, LogEvent.UNBLOCKED]


def test_a_worker_that_is_back_at_once_is_not_worth_an_entry(ledger: Ledger) -> None:
    submit(ledger)
    clock, fleet = HandClock(), Fleet()
    watcher = Watcher(ledger, fleet, clock, "USD", RoleMetrics(CollectorRegistry()))  # type: ignore[arg-type]  # a fleet of our own
    watcher.step(1)
    fleet.views = {"gpu": PoolView(1, 1, frozenset({"echo"}))}
    clock.now_s += MIN_BLOCKED_S
    watcher.step(1)
    assert told(ledger) == []


def test_a_ledger_of_other_data_formats_is_refused_with_both_versions(
    ledger: Ledger, redis_client: redis.Redis, prefix: str
) -> None:
    ledger.require_schema(SCHEMA + 1)
    redis_client.zadd(f"{prefix}jobs", {"job-0": 1})  # a job of that version
    with pytest.raises(InvalidSettings, match=f"version {SCHEMA + 1}, this Batchmill has version {SCHEMA}") as refused:
        ledger.require_schema()
    assert "BATCHMILL_REDIS_PREFIX" in str(refused.value)
    ledger.require_schema(SCHEMA + 1)
    redis_client.delete(f"{prefix}schema")
    ledger.require_schema(1)  # what was there before there were versions


def test_a_ledger_from_before_stages_is_refused_with_what_to_do(
    ledger: Ledger, redis_client: redis.Redis, prefix: str
) -> None:
    redis_client.zadd(f"{prefix}jobs", {"job-0": 1})  # as version 1 left it: a job, and no key with the version
    with pytest.raises(
        InvalidSettings, match=f"data formats of version 1, this Batchmill has version {SCHEMA}"
    ) as refused:
        ledger.require_schema()
    assert (refused.value.details["found"], refused.value.details["expected"]) == (1, SCHEMA)
    assert "let its jobs end, delete them and stop its workers; then start this one" in str(refused.value)
    redis_client.delete(f"{prefix}jobs")
    ledger.require_schema()


def test_an_empty_ledger_takes_another_version_once_its_workers_are_gone(ledger: Ledger) -> None:
    ledger.require_schema(1)
    ledger.fleet.announce(WORKER, [], 60)
    with pytest.raises(InvalidSettings):
        ledger.require_schema(2)
    ledger.fleet.deregister(WORKER.name)
    ledger.require_schema(2)


@pytest.mark.slow
@pytest.mark.parametrize("service", ["worker", "coordinator"])
def test_a_service_of_other_data_formats_does_not_start(
    service: str, ledger: Ledger, redis_client: redis.Redis, valkey_url: str, prefix: str, tmp_path: Path
) -> None:
    ledger.require_schema(SCHEMA + 1)
    redis_client.zadd(f"{prefix}jobs", {"job-0": 1})  # a job of that version
    env = {
        **os.environ,
        "BATCHMILL_REDIS_URL": valkey_url,
        "BATCHMILL_REDIS_PREFIX": prefix,
        "BATCHMILL_BLOB_ROOT": str(tmp_path),
        "BATCHMILL_DEVICES": "cpu",
        "BATCHMILL_TOKENS": "a-token-of-ours",
        "BATCHMILL_PORT": "0",
    }
    command = die_with_parent([sys.executable, "-m", "batchmill", service])
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert f"version {SCHEMA + 1}, this Batchmill has version {SCHEMA}" in done.stderr.splitlines()[-1]
