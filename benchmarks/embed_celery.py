"""Bare Celery that embeds: a worker with the same model, a task a row or many rows a task.

`celery -A benchmarks.embed_celery worker` loads this module; the benchmark imports it for the client.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.result import ResultSet

from benchmarks.bare_embed import BATCH, load
from benchmarks.celery_peer import QUIET
from benchmarks.stack import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.stack import Processes

URL = "BENCH_EMBED_URL"
TIMEOUT_S = 600.0

app = Celery("embed", broker=os.environ.get(URL, "memory://"), backend=os.environ.get(URL))
app.conf.update(worker_prefetch_multiplier=4, broker_connection_retry_on_startup=True)


@cache
def _model() -> Any:
    return load()


@app.task(name="embed")
def embed(texts: list[str]) -> list[list[float]]:
    """The vectors of some texts."""
    return [list(map(float, vector)) for vector in _model().encode(texts, batch_size=BATCH, normalize_embeddings=True)]


class EmbedCelery:
    """A client of one worker process."""

    def __init__(self, url: str) -> None:
        self._app = Celery("embed", broker=url, backend=url)

    def is_ready(self) -> bool:
        """Whether a worker answers."""
        return bool(self._app.control.inspect(timeout=0.5).ping())

    def run(self, texts: list[str], rows_a_task: int) -> float:
        """All texts there and their vectors back; seconds."""
        began = time.perf_counter()
        pieces = [texts[start : start + rows_a_task] for start in range(0, len(texts), rows_a_task)]
        sent = ResultSet([self._app.send_task("embed", (piece,)) for piece in pieces], app=self._app)
        back = sent.join_native(timeout=TIMEOUT_S)
        took = time.perf_counter() - began
        if sum(map(len, back)) != len(texts):
            raise RuntimeError("Celery did not give a vector for each row")
        sent.forget()
        return took

    def close(self) -> None:
        self._app.close()


@contextmanager
def embed_celery(run: Processes, socket: Path) -> Iterator[EmbedCelery]:
    """A worker that has loaded the model, with all cores, and its client."""
    url = f"redis+socket://{socket}?virtual_host=1"
    command = [sys.executable, "-m", "celery", "-A", "benchmarks.embed_celery", "worker", *QUIET, "--pool", "solo"]
    env = {URL: url, "PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    with closing(EmbedCelery(url)) as peer:
        run.start("embed-celery", command, env, peer.is_ready)
        peer.run(["a text to warm up with"], 1)
        yield peer
