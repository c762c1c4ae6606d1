"""A stand-in for the metadata services of AWS, GCP and Azure, which refuses what they refuse."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from batchmill_worker.supervisor.notices import (
    AWS_ACTION,
    AWS_LIFECYCLE,
    AWS_TOKEN,
    AZURE_EVENTS,
    AZURE_NAME,
    AZURE_PRIORITY,
    GCP_MAINTENANCE,
    GCP_PREEMPTED,
    GCP_PREEMPTIBLE,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

QUIET = {
    AWS_LIFECYCLE: b"on-demand",
    GCP_PREEMPTIBLE: b"FALSE",
    AZURE_PRIORITY: b"Regular",
    GCP_PREEMPTED: b"FALSE",
    GCP_MAINTENANCE: b"NONE",
    AZURE_NAME: b"vm-1",
    AZURE_EVENTS: b'{"DocumentIncarnation": 1, "Events": []}',
}
NEEDED = {"/computeMetadata": ("Metadata-Flavor", "Google"), "/metadata": ("Metadata", "true")}


class MetadataService(ThreadingHTTPServer):
    """`says` has what it answers, by path, beside what it says when nothing is announced."""

    daemon_threads = True

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.says: dict[str, bytes] = {}
        self.tokens: set[str] = set()
        super().__init__((host, 0), _Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def become_spot(self) -> None:
        """Say, as every cloud does, that this is a spot machine."""
        self.says |= {AWS_LIFECYCLE: b"spot", GCP_PREEMPTIBLE: b"TRUE", AZURE_PRIORITY: b"Spot"}

    def announce(self, cloud: str, ends_at: float, machine: str = "vm-1") -> None:
        """Say what a cloud says when a machine is to end; GCP gives no time."""
        at = datetime.fromtimestamp(ends_at, UTC)
        if cloud == "aws":
            said = {"action": "terminate", "time": at.strftime("%Y-%m-%dT%H:%M:%SZ")}
            self.says[AWS_ACTION] = json.dumps(said).encode()
        elif cloud == "gcp":
            self.says[GCP_PREEMPTED] = b"TRUE"
        else:
            event = {"EventType": "Preempt", "EventStatus": "Scheduled", "Resources": [machine]}
            events = [{**event, "NotBefore": format_datetime(at, usegmt=True)}]
            self.says[AZURE_EVENTS] = json.dumps({"DocumentIncarnation": 2, "Events": events}).encode()


class _Handler(BaseHTTPRequestHandler):
    server: MetadataService

    def log_message(self, *_: object) -> None:
        """Nothing is logged."""

    def do_PUT(self) -> None:
        if self.path != AWS_TOKEN or not self.headers.get("X-aws-ec2-metadata-token-ttl-seconds"):
            self._answer(400)
            return
        token = f"token-{len(self.server.tokens)}-{id(self)}"
        self.server.tokens.add(token)
        self._answer(200, token.encode())

    def do_GET(self) -> None:
        if self.path.startswith("/latest/") and self.headers.get("X-aws-ec2-metadata-token") not in self.server.tokens:
            self._answer(401)
            return
        for start, (name, value) in NEEDED.items():
            if self.path.startswith(start) and self.headers.get(name) != value:
                self._answer(403)
                return
        body = self.server.says.get(self.path, QUIET.get(self.path))
        self._answer(404 if body is None else 200, body or b"")

    def _answer(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def metadata_service(host: str = "127.0.0.1") -> Iterator[MetadataService]:
    """One that runs as long as the block lasts. host: the address it listens on."""
    with MetadataService(host) as service:
        thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield service
        finally:
            service.shutdown()
            thread.join()
