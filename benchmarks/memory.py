"""What a large source costs the coordinator in memory, and what its job costs in Valkey."""

from __future__ import annotations

import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil
import redis

from batchmill import Stage
from benchmarks import corpora
from benchmarks.figures import Bar, Figure, Report
from benchmarks.stack import processes, service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchmill import Job
    from benchmarks.scale import Scale

NAME = "memory"
WORKERS = 2
RSS_EVERY_S = 0.02
KEYS_EVERY_S = 0.2
MB = 1e6


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured: a source, and how many stages of `echo` its rows pass, each with shards of its own."""

    name: str
    kind: Literal["parquet", "jsonl"]
    stages: int = 1


CASES = (
    Case("Parquet", "parquet"),
    Case("JSON Lines", "jsonl"),
    Case("Parquet, three stages", "parquet", stages=3),
)


@dataclass(slots=True)
class Cost:
    """What one job cost, in bytes."""

    working: int = 0  # the coordinator's largest resident memory until the job ended
    overall: int = 0  # and until all its results were read
    own: int = 0  # its largest memory of its own while they were read: without pages of mapped files
    keys_most: int = 0  # its keys in Valkey, at most
    keys_end: int = 0  # and when all was done
    seconds: float = 0.0


@dataclass(slots=True)
class _Peak:
    """The largest value seen."""

    value: int = 0
    failure: list[BaseException] = field(default_factory=list)


def measure(scale: Scale) -> Report:
    """A small and a large source of each case, each over a fresh service, `scale.memory_runs` times over."""
    sizes = (scale.few_rows, scale.many_rows)
    costs: dict[tuple[Case, int], list[Cost]] = {(case, rows): [] for case in CASES for rows in sizes}
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder:
        files = {(case.kind, rows) for case, rows in costs}
        sources = {(kind, rows): corpora.write_file(Path(folder), rows, kind) for kind, rows in files}
        for _ in range(scale.memory_runs):
            for case, rows in costs:
                costs[case, rows].append(job_cost(sources[case.kind, rows], rows, case.stages))
    settings = {"rows": scale.many_rows, "against": scale.few_rows, "runs": scale.memory_runs, "workers": WORKERS}
    return Report(NAME, settings, _figures(costs), _bars(costs, scale), REMARKS)


REMARKS = [
    "Each job has a fresh Valkey, coordinator and workers. The client reads and checks all its results.",
    "Resident memory includes pages of files that are mapped while they are sent, which the system takes back at need.",
    "The coordinator's own memory is without them.",
]


def job_cost(source: Path, rows: int, stages: int = 1) -> Cost:
    """Run a source through stages of `echo` over a fresh service, read all results and check their order."""
    cost = Cost()
    with (
        tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as folder,
        processes(Path(folder)) as run,
        service(run, WORKERS) as running,
        redis.Redis(unix_socket_path=str(running.socket)) as valkey,
    ):
        coordinator = psutil.Process(running.coordinator_pid)
        began = time.perf_counter()
        chain = [Stage("echo", name=f"echo {number}") for number in range(stages)]
        job = running.client.submit(stages=chain, source=source, fuse=False)
        with _watched(lambda: keys_bytes(valkey, job.id), KEYS_EVERY_S) as keys:
            with _watched(lambda: int(coordinator.memory_info().rss), RSS_EVERY_S) as working:
                job.wait()
            cost.seconds = time.perf_counter() - began
            cost.working = max(working.value, high_water(coordinator.pid))
            with (
                _watched(lambda: int(coordinator.memory_info().rss), RSS_EVERY_S) as reading,
                _watched(lambda: own_memory(coordinator), RSS_EVERY_S) as own,
            ):
                _read_all(job, rows)
            cost.own = own.value
            cost.overall = max(cost.working, reading.value, high_water(coordinator.pid))
        cost.keys_most, cost.keys_end = keys.value, keys_bytes(valkey, job.id)
    return cost


def own_memory(process: psutil.Process) -> int:
    """The resident memory of a process without pages of files that it maps, in bytes."""
    found = process.memory_info()
    return int(found.rss - getattr(found, "shared", 0))


def high_water(pid: int) -> int:
    """The largest resident memory a process ever had, as Linux counts it, in bytes; 0 elsewhere."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def keys_bytes(valkey: redis.Redis, job_id: str) -> int:
    """What all keys with a job's id in their names take in Valkey, every element counted."""
    found = valkey.scan_iter(match=f"*{job_id}*", count=1000)
    return sum(int(valkey.memory_usage(key, samples=0) or 0) for key in found)


def _read_all(job: Job, rows: int) -> None:
    expected = 0
    for batch in job.batches():
        numbers = batch.column("id")
        if numbers[0].as_py() != expected or numbers[-1].as_py() != expected + batch.num_rows - 1:
            raise RuntimeError(f"row {expected} is not where it belongs")
        expected += batch.num_rows
    if expected != rows:
        raise RuntimeError(f"{rows} rows were submitted and {expected} were returned")


@contextmanager
def _watched(look: Callable[[], int], every_s: float) -> Iterator[_Peak]:
    """Looks again and again, in a thread of its own, for as long as the block lasts, and once at its end."""
    peak, ended = _Peak(look()), threading.Event()

    def watch() -> None:
        try:
            while not ended.wait(every_s):
                peak.value = max(peak.value, look())
        except (psutil.Error, redis.RedisError) as error:
            peak.failure.append(error)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
        peak.value = max(peak.value, look())
    finally:
        ended.set()
        thread.join()
    if peak.failure:
        raise peak.failure[0]


def _figures(costs: dict[tuple[Case, int], list[Cost]]) -> list[Figure]:
    found = []
    for (case, rows), runs in costs.items():
        name = f"{case.name}, {rows:,} rows"
        found += [
            Figure(f"{name}: coordinator until the job ended", "MB", [cost.working / MB for cost in runs]),
            Figure(f"{name}: coordinator, reading results too", "MB", [cost.overall / MB for cost in runs]),
            Figure(f"{name}: of its own, while results are read", "MB", [cost.own / MB for cost in runs]),
            Figure(f"{name}: keys in Valkey, at most", "kB", [cost.keys_most / 1e3 for cost in runs]),
            Figure(f"{name}: keys in Valkey, at the end", "kB", [cost.keys_end / 1e3 for cost in runs]),
            Figure(f"{name}: submit to the end of the job", "s", [cost.seconds for cost in runs]),
        ]
    return found


def _bars(costs: dict[tuple[Case, int], list[Cost]], scale: Scale) -> list[Bar]:
    bars = []
    for case in CASES:
        name, many, few = case.name, costs[case, scale.many_rows], costs[case, scale.few_rows]
        working = max(cost.working for cost in many) - min(cost.working for cost in few)
        own = max(cost.own for cost in many) - min(cost.own for cost in few)
        keys = max(cost.keys_most for cost in many)
        bars += [
            Bar(f"{name}: coordinator beyond the small source, until the job ended", working / MB, "at most", 50, "MB"),
            Bar(f"{name}: of its own, while all results are read", own / MB, "at most", 50, "MB"),
            Bar(f"{name}: the job's keys in Valkey", keys / MB, "below", 2, "MB"),
        ]
    return bars
