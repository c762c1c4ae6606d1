"""Bare Celery as a peer: a real worker, one task a row."""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import redis
from celery.result import ResultSet

from benchmarks.celery_tasks import COUNTED, COUNTER, URL, make_app
from benchmarks.stack import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.stack import Processes

QUIET = ("--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR")
TIMEOUT_S = 180.0
POLL_S = 0.002


class CeleryPeer:
    """A client of one Celery worker."""

    def __init__(self, url: str, counter: redis.Redis) -> None:
        self._app = make_app(url)
        self._counter = counter
        self._echo = self._app.tasks["echo"]
        self._count = self._app.tasks["count"]

    def is_ready(self) -> bool:
        """Whether a worker answers."""
        return bool(self._app.control.inspect(timeout=0.5).ping())

    def one(self, row: dict[str, Any]) -> Any:
        """`delay().get()`."""
        return self._echo.delay(row).get(timeout=TIMEOUT_S)

    def with_results(self, rows: list[dict[str, Any]]) -> float:
        """One task a row, each result fetched and compared; seconds."""
        began = time.perf_counter()
        sent = ResultSet([self._echo.delay(row) for row in rows], app=self._app)
        back = sent.join_native(timeout=TIMEOUT_S)
        took = time.perf_counter() - began
        if back != rows:
            raise RuntimeError("Celery did not give the rows back as they were")
        sent.forget()
        return took

    def without_results(self, rows: list[dict[str, Any]]) -> float:
        """One task a row, its result ignored, until all are counted; seconds."""
        self._counter.delete(COUNTED)
        began = time.perf_counter()
        for row in rows:
            self._count.delay(row)
        while int(self._counter.get(COUNTED) or 0) < len(rows):
            if time.perf_counter() - began > TIMEOUT_S:
                raise TimeoutError(f"Celery did not run {len(rows)} tasks within {TIMEOUT_S:.0f} s")
            time.sleep(POLL_S)
        return time.perf_counter() - began

    def close(self) -> None:
        self._app.close()


@contextmanager
def celery_peer(
    run: Processes, socket: Path, database: int, pool: Literal["prefork", "threads"], concurrency: int
) -> Iterator[CeleryPeer]:
    """A Celery worker on a database of a Valkey, and its client."""
    url = f"redis+socket://{socket}?virtual_host={database}"
    counter = f"unix://{socket}?db={database}"
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.celery_worker", "worker", *QUIET]
    env = {URL: url, COUNTER: counter, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    with redis.Redis.from_url(counter) as connection, closing(CeleryPeer(url, connection)) as peer:
        run.start(f"celery-{pool}", [*command, "--pool", pool, "--concurrency", str(concurrency)], env, peer.is_ready)
        yield peer
