"""What tests that attack a service need: raw requests, its health meanwhile, and a right job afterwards."""

from __future__ import annotations

import http.client
import json
import os
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psutil

from support.cluster import TOKEN, Cluster

if TYPE_CHECKING:
    from collections.abc import Iterator

HEALTH_S = 1.0
"""On a machine that has a core for each process that wants one; on a busier one it is in proportion."""

HEALTH_TIMEOUT_S = 10.0
HEALTH_INTERVAL_S = 0.05
MEBIBYTE = 1024 * 1024


@dataclass(frozen=True)
class Answer:
    """An answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code in the envelope of an error."""
        return str(self.json["error"]["code"])


class Mill:
    """A cluster with the coordinator "a", and requests to it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        parts = urlsplit(cluster.url("a"))
        self.host, self.port = str(parts.hostname), int(parts.port or 0)

    def call(
        self, method: str, path: str, body: Any = None, token: str = TOKEN, timeout: float = 60.0, **headers: str
    ) -> Answer:
        """Send one request; a body that is not bytes goes as JSON."""
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        sent = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def submit(self, token: str = TOKEN, **request: Any) -> Answer:
        """Submit an `echo` job."""
        return self.call("POST", "/v1/jobs", {"operator": "echo", **request}, token)

    def connect(self) -> socket.socket:
        """A connection that nothing is sent on yet."""
        return socket.create_connection((self.host, self.port), timeout=30)

    def rss_mib(self) -> float:
        """The resident memory of the coordinator's process that serves."""
        coordinator = self.cluster.coordinators["a"]
        processes = [psutil.Process(coordinator.pid), *coordinator.children()]
        return float(sum(process.memory_info().rss for process in processes)) / MEBIBYTE

    def require_right_job(self) -> None:
        """Run a job and compare every row."""
        rows = [{"id": number, "text": f"row {number}"} for number in range(50)]
        job = self.cluster.clients["a"].submit("echo", rows=rows)
        job.wait(timeout=60)
        assert list(job.results()) == rows

    @contextmanager
    def healthy(self, limit_s: float = HEALTH_S) -> Iterator[None]:
        """The service answers `/healthz` within `limit_s` for as long as the block runs."""
        took, done = [], threading.Event()

        def ask() -> None:
            while not done.is_set():
                started = time.monotonic()
                try:
                    is_well = self.call("GET", "/healthz", token="", timeout=HEALTH_TIMEOUT_S).status == 200
                except OSError:
                    is_well = False
                took.append(time.monotonic() - started if is_well else HEALTH_TIMEOUT_S)
                done.wait(HEALTH_INTERVAL_S)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
        assert took
        limit_s *= max(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0)
        slow = [seconds for seconds in took if seconds > limit_s]
        assert not slow, (
            f"/healthz took {max(slow):.2f} s; {len(slow)} of {len(took)} answers took over {limit_s:.1f} s"
        )


def read_answer(connection: socket.socket) -> bytes:
    """What the server sends until it closes."""
    received = b""
    try:
        while chunk := connection.recv(65_536):
            received += chunk
    except ConnectionResetError:
        return received
    return received
