"""Interactive requests: an embedding over HTTP, idle and under a job, and a first token, beside the models alone."""

from __future__ import annotations

import http.client
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchmill_worker.batching.sizing import INTERACTIVE_S
from benchmarks.celery_peer import celery_peer
from benchmarks.figures import Bar, Figure, Report
from benchmarks.lane_peer import CHAT, COLUMNS, EMBED, MESSAGES, TEXT, lane_peer
from benchmarks.stack import processes, service
from benchmarks.texts import texts

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill import Client
    from benchmarks.celery_peer import CeleryPeer
    from benchmarks.scale import Scale

NAME = "lane"
WARM_UP = 20
FIRST_TOKENS = 20
JOB_ROWS = 5_000  # more than can be done meanwhile

ALONE, IDLE, BUSY = "the forward pass alone", "an embedding over HTTP", "the same under a job"
CELERY = "a task of Celery"
FIRST_ALONE, FIRST = "a first token alone", "a first token over HTTP"


def measure(scale: Scale) -> Report:
    """All in turn, `scale.runs` times over."""
    took: dict[str, list[list[float]]] = {name: [] for name in (ALONE, IDLE, BUSY, FIRST_ALONE, FIRST, CELERY)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True)))
        (folder / "models.json").write_text(
            json.dumps({"m": {"operator": "embed", "params": EMBED}, "c": {"operator": "chat", "params": CHAT}})
        )
        run = stack.enter_context(processes(folder))
        models = {"BATCHMILL_MODELS": str(folder / "models.json")}
        token = "bench"  # noqa: S105  # of a service that only this machine sees
        running = stack.enter_context(service(run, 1, token=token, more_settings=models))
        client = running.client
        client.call("embed", [{"text": TEXT}], EMBED)
        client.call("chat", [{"messages": MESSAGES, "options": {}}], CHAT | COLUMNS)
        web = _Web(client.url, token)
        peer = stack.enter_context(lane_peer())
        celery = stack.enter_context(celery_peer(run, running.socket, 1, "threads", 1))
        asks: dict[str, tuple[Callable[[], float], int]] = {
            ALONE: (lambda: peer.ask("embed"), scale.asks),
            IDLE: (web.embedding, scale.asks),
            FIRST_ALONE: (lambda: peer.ask("chat"), FIRST_TOKENS),
            FIRST: (web.first_token, FIRST_TOKENS),
            CELERY: (lambda: _task(celery), scale.asks),
        }
        for ask, _ in asks.values():
            web.close()
            _timed(ask, WARM_UP)
        for _ in range(scale.runs):
            for name, (ask, times) in asks.items():
                web.close()
                took[name].append(_timed(ask, times))
            web.close()
            took[BUSY].append(_under_a_job(client, web, scale.asks))
    settings = {"asks_a_run": scale.asks, "first_tokens_a_run": FIRST_TOKENS, "runs": scale.runs, "workers": 1}
    settings["backend"] = peer.backend
    return Report(NAME, settings, [figure for name in took for figure in _figures(name, took[name])], _bars(took))


def _task(celery: CeleryPeer) -> float:
    began = time.perf_counter()
    celery.one({"text": TEXT})
    return time.perf_counter() - began


class _Web:
    """A client with one connection that stays open, unless the service closes it because it is idle."""

    def __init__(self, url: str, token: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def close(self) -> None:
        """Use another connection for the next request."""
        self._connection.close()

    def embedding(self) -> float:
        began = time.perf_counter()
        self._post("embeddings", {"model": "m", "input": TEXT, "encoding_format": "base64"}).read()
        return time.perf_counter() - began

    def first_token(self) -> float:
        began, first_s = time.perf_counter(), 0.0
        response = self._post("chat/completions", {"model": "c", "messages": MESSAGES, "stream": True})
        for line in response:
            if not first_s and line.startswith(b"data: {") and _content_of(line):
                first_s = time.perf_counter() - began
        return first_s

    def _post(self, path: str, body: dict[str, Any]) -> http.client.HTTPResponse:
        self._connection.request("POST", f"/v1/{path}", json.dumps(body), self._headers)
        response = self._connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{path} answered {response.status}: {response.read()[:500]!r}")
        return response


def _under_a_job(client: Client, web: _Web, times: int) -> list[float]:
    job = client.submit("embed", rows=[{"text": text} for text in texts(JOB_ROWS)], params=EMBED, carry=[])
    try:
        next(status for status in job.watch() if status.rows_done)
        found = _timed(web.embedding, times)
        if job.status().is_final:
            raise RuntimeError("the job ended before the requests did")
        return found
    finally:
        job.cancel()
        job.watch()


def _timed(ask: Callable[[], float], times: int) -> list[float]:
    return [ask() * 1000 for _ in range(times)]


def _figures(name: str, runs: list[list[float]]) -> list[Figure]:
    return [Figure(f"{name}, median", "ms", _medians(runs)), Figure(f"{name}, 99th percentile", "ms", _tails(runs))]


def _bars(took: dict[str, list[list[float]]]) -> list[Bar]:
    typical = {name: statistics.median(_medians(runs)) for name, runs in took.items()}
    beyond = typical[IDLE] - typical[ALONE]
    tail = statistics.median(_tails(took[BUSY]))
    return [
        Bar("an embedding, beyond the forward pass", beyond, "at most", 5, "ms", target=3),
        Bar("the same over a task of Celery", beyond / typical[CELERY], "at most", 1.5, "x"),
        Bar("a first token, beyond the engine's own", typical[FIRST] - typical[FIRST_ALONE], "at most", 10, "ms"),
        Bar("99th percentile under a job, in batches at their cap", tail / (INTERACTIVE_S * 1000), "at most", 2, "x"),
    ]


def _medians(runs: list[list[float]]) -> list[float]:
    return [statistics.median(run) for run in runs]


def _tails(runs: list[list[float]]) -> list[float]:
    return [statistics.quantiles(run, n=100)[-1] for run in runs]


def _content_of(line: bytes) -> str:
    """The text in an event of a stream."""
    return str(json.loads(line.removeprefix(b"data: "))["choices"][0]["delta"].get("content") or "")
