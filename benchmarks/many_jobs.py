"""One-row jobs a second with few and with many of them live, beside plain Celery tasks; and whom the backlog delays.

The jobs wait in a pool without workers until as many live as are wanted; then its only worker starts. What is measured
beside it, while they wait and while they run, is a one-row job of another tenant in an idle pool, and `/healthz`.
"""

from __future__ import annotations

import asyncio
import http.client
import secrets
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import redis

from batchmill.client import AsyncClient, Client
from batchmill.ledger.formats.keys import Keys
from benchmarks.celery_peer import celery_peer
from benchmarks.figures import Bar, Figure, Report
from benchmarks.one_row_latency import one
from benchmarks.stack import processes, service, start_worker

if TYPE_CHECKING:
    from benchmarks.celery_peer import CeleryPeer
    from benchmarks.scale import Scale
    from benchmarks.stack import Processes, Service

NAME = "many_jobs"
POOL = "backlog"
MAX_COUNTED = 1_000  # jobs that end while the speed is measured; about that many live meanwhile
SUBMITTERS = 8
PROBES = 20
PROBE_INTERVAL_S = 0.05
POLL_S = 0.01
TIMEOUT_S = 600.0

JOBS, TASKS = "one-row jobs", "Celery, a task a row"
IDLE, WAITING, RUNNING = "nothing else", "live, pool without workers", "live, running"


class Probes(NamedTuple):
    """What others saw of a load: milliseconds."""

    first_rows: list[float]
    health: list[float]


def measure(scale: Scale) -> Report:
    """Each number of live jobs once, on one service: `scale.live_jobs`."""
    figures: list[Figure] = []
    speeds: dict[int, float] = {}
    probed: list[Probes] = []
    with ExitStack() as stack:
        run = stack.enter_context(processes(_folder(stack)))
        flood, other = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
        settings = {
            "BATCHMILL_TOKENS": f"flood:{flood},other:{other}",
            "BATCHMILL_MAX_LIVE_JOBS": str(2 * max(scale.live_jobs)),
            "BATCHMILL_MAX_LIVE_JOBS_PER_TENANT": str(2 * max(scale.live_jobs)),
        }
        running = stack.enter_context(service(run, 1, token=flood, more_settings=settings))
        peer = stack.enter_context(celery_peer(run, running.socket, 1, "prefork", 1))
        client = stack.enter_context(Client(running.client.url, other))
        backlog = _Backlog(run, running, flood)
        probe = _Prober(client)
        probe.take(PROBES)  # warms everything up
        probed.append(probe.take(PROBES))
        figures += _of_probes(IDLE, probed[0])
        for live in scale.live_jobs:
            figures += backlog.fill(live)
            waiting = probe.take(PROBES)
            speeds[live], during = backlog.drain(live, probe)
            probed += [waiting, during]
            figures.append(Figure(f"{live:,} live: {JOBS}", "jobs/s", [speeds[live]]))
            figures += [*_of_probes(f"{live:,} {WAITING}", waiting), *_of_probes(f"{live:,} {RUNNING}", during)]
            figures.append(Figure(f"{live:,} tasks: {TASKS}", "tasks/s", [_celery(peer, min(live, MAX_COUNTED))]))
    settings = {"workers": 1, "submitters": SUBMITTERS, "probes": PROBES}
    return Report(NAME, settings, figures, _bars(speeds, probed), REMARKS)


REMARKS = [
    f"The speed is that of the first {MAX_COUNTED:,} jobs to end, or of all; Celery's tasks are sent meanwhile.",
    "The other job is of another tenant, in another pool, whose worker is idle; its client reads its row.",
    "Load generator, Valkey, coordinator and both workers share the machine.",
]


class _Backlog:
    """Jobs of one tenant in a pool of their own, whose worker comes and goes."""

    def __init__(self, run: Processes, running: Service, token: str) -> None:
        self._run = run
        self._running = running
        self._token = token
        self._redis = redis.Redis.from_url(f"unix://{running.socket}?db=0")
        self._live_key = Keys("batchmill:").live_jobs()
        self._worker = ""  # the name of the one that runs
        self._starts = 0

    def fill(self, live: int) -> list[Figure]:
        """Submit as many jobs, when all others have ended; how fast that was."""
        if self._worker:
            self._wait_until(0)
            self._run.stop(self._worker)
        began = time.perf_counter()
        asyncio.run(self._submit(live))
        took = time.perf_counter() - began
        if self._count() != live:
            raise RuntimeError(f"expected {live} live jobs, found {self._count()}")
        return [Figure(f"{live:,} live: submitted", "jobs/s", [live / took])]

    async def _submit(self, live: int) -> None:
        numbers = iter(range(live))
        async with AsyncClient(self._running.client.url, self._token) as client:

            async def submit_some() -> None:
                for number in numbers:
                    await client.submit("echo", rows=[{"id": number}], pool=POOL)

            async with asyncio.TaskGroup() as group:
                for _ in range(SUBMITTERS):
                    group.create_task(submit_some())

    def drain(self, live: int, probe: _Prober) -> tuple[float, Probes]:
        """Start the pool's worker; jobs a second of those that end first, and what others saw meanwhile."""
        counted = min(live, MAX_COUNTED)
        self._starts += 1
        settings = {**self._running.settings, "BATCHMILL_POOL": POOL}
        self._worker = f"backlog-{self._starts}"
        start_worker(self._run, settings, self._worker, 1)
        with ThreadPoolExecutor(1) as threads:
            first = self._wait_until(live - 1)
            began, ended = time.perf_counter(), live - first
            probing = threads.submit(probe.take, PROBES)
            last = self._wait_until(live - counted)
            took = time.perf_counter() - began
            probes = probing.result()
        return (live - last - ended) / took, probes

    def _wait_until(self, most: int) -> int:
        """Wait until at most `most` jobs live; how many do then."""
        ends_at = time.monotonic() + TIMEOUT_S
        while (found := self._count()) > most:
            if time.monotonic() > ends_at:
                raise TimeoutError(f"{found} jobs are live after {TIMEOUT_S:.0f} s; at most {most} were expected")
            time.sleep(POLL_S)
        return found

    def _count(self) -> int:
        return int(self._redis.zcard(self._live_key))


class _Prober:
    """Somebody else who uses the service."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._address = urlsplit(client.url)

    def take(self, times: int) -> Probes:
        """One job and one question for health after the other."""
        first_rows, health = [], []
        for number in range(times):
            began = time.perf_counter()
            if one(self._client, {"id": number}) != {"id": number}:
                raise RuntimeError("a row did not come back as it was sent")
            first_rows.append((time.perf_counter() - began) * 1000)
            health.append(self._ask_health())
            time.sleep(PROBE_INTERVAL_S)
        return Probes(first_rows, health)

    def _ask_health(self) -> float:
        began = time.perf_counter()
        connection = http.client.HTTPConnection(self._address.hostname or "", self._address.port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", "/healthz")
            if connection.getresponse().status != http.HTTPStatus.OK:
                raise RuntimeError("the coordinator is not healthy")
        finally:
            connection.close()
        return (time.perf_counter() - began) * 1000


def _celery(peer: CeleryPeer, tasks: int) -> float:
    return tasks / peer.with_results([{"id": number} for number in range(tasks)])


def _of_probes(load: str, probes: Probes) -> list[Figure]:
    return [
        Figure(f"{load}: a job elsewhere, to its row", "ms", probes.first_rows),
        Figure(f"{load}: health", "ms", probes.health),
    ]


def _bars(speeds: dict[int, float], probed: list[Probes]) -> list[Bar]:
    fewest, most = min(speeds), max(speeds)
    slowest = max(max(probes.first_rows) for probes in probed) / 1000
    slowest_health = max(statistics.quantiles(probes.health, n=10)[-1] for probes in probed)
    return [
        Bar(f"{JOBS} a second with {most:,} live", speeds[most], "at least", 100, "jobs/s"),
        Bar(f"the same over that with {fewest:,} live", speeds[most] / speeds[fewest], "at least", 0.5, "x"),
        Bar("a job elsewhere, to its row, at most", slowest, "below", 1, "s"),
        Bar("health under any load, 90th percentile", slowest_health, "below", 100, "ms"),
    ]


def _folder(stack: ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
