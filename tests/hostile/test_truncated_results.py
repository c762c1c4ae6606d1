"""Results that are truncated while they are sent end that request at most, and never a process of the service."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

import pytest

from support.attack import read_answer
from support.cluster import TOKEN
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from pathlib import Path

    from support.attack import Mill

ROWS = 400
NBYTES = 30_000  # a row: a page is larger than all that a connection buffers
OUTPUTS: dict[str, dict[str, Any] | None] = {
    "the service": None,
    "Parquet": {"format": "parquet"},
    "Arrow": {"format": "arrow"},
    "JSON Lines": {"format": "jsonl"},
}


def ask(mill: Mill, path: str, accept: str) -> socket.socket:
    """Ask for something over a connection that takes little at a time."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(GRACE_S)
    connection.connect((mill.host, mill.port))
    head = (
        f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nAccept: {accept}\r\nConnection: close\r\n"
    )
    connection.sendall(f"{head}\r\n".encode())
    return connection


def lines_in(answer: bytes) -> list[bytes]:
    """The complete lines of a chunked answer."""
    body, lines = answer.partition(b"\r\n\r\n")[2], b""
    while (size := int(body.partition(b"\r\n")[0] or b"0", 16)) and len(body) > size:
        start = body.index(b"\r\n") + 2
        lines += body[start : start + size]
        body = body[start + size + 2 :]
    return lines.split(b"\n")[:-1]


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_file_that_is_truncated_while_it_is_sent_ends_no_process(mill: Mill, tmp_path: Path, output: str) -> None:
    spec = OUTPUTS[output]
    client, place = mill.cluster.clients["a"], None if spec is None else {**spec, "path": str(tmp_path / "out")}
    rows = [{"id": number} for number in range(ROWS)]
    job = client.submit("wordy", rows, params={"nbytes": NBYTES}, output=place).wait(timeout=GRACE_S)
    folder = tmp_path / "out" if place else mill.cluster.blobs / "jobs" / job.id / "results"
    parts = sorted(path for path in folder.rglob("part-*") if path.is_file())
    coordinator = mill.cluster.coordinators["a"]
    before = {coordinator.pid, *(child.pid for child in coordinator.children())}
    with ask(mill, f"/v1/jobs/{job.id}/results", "application/x-ndjson") as connection:
        received = connection.recv(1000)
        for part in parts:
            with part.open("r+b") as file:
                file.truncate(part.stat().st_size // 3)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        received += read_answer(connection)
    assert received.startswith(b"HTTP/1.1 200")
    found = [json.loads(line)["id"] for line in lines_in(received)]
    assert found == list(range(len(found))), "what is sent is right"
    assert coordinator.process.poll() is None
    assert before <= {coordinator.pid, *(child.pid for child in coordinator.children())}
    answer = mill.call("GET", f"/v1/jobs/{job.id}/results")
    assert (answer.status, answer.code) == (507, "damaged_data")
    assert parts[0].name in answer.json["error"]["message"]
