"""Uploads that are never used: bounded for each tenant, and gone when a request is refused."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

    from support.attack import Mill

ACME, BETA = "acme-token-1", "beta-token-1"
MANY = [{"txt": "x" * 1000}] * 100
PART_BYTES = 16 * 1024 * 1024
PARTS = 40


def begin(mill: Mill, token: str) -> Any:
    return mill.call("POST", "/v1/uploads", {"spec": {"operator": "echo"}}, token)


def test_refused_requests_leave_no_upload(mill: Mill) -> None:
    before = open_uploads(mill)
    for _ in range(60):  # three times as many as a tenant may have
        answer = mill.submit(ACME, rows=MANY, carry=["missing"])
        assert (answer.status, answer.code) == (422, "invalid_request")
    assert open_uploads(mill) == before
    assert mill.submit(ACME, rows=MANY).status == 201


def open_uploads(mill: Mill) -> tuple[set[str], set[str]]:
    """The uploads that the ledger has, and those that the blob store has."""
    with mill.cluster.redis() as client:
        known = set(client.zrange("batchmill:uploads", 0, -1))
    return known, {path.name for path in (mill.cluster.blobs / "uploads").glob("*")}


def test_one_tenant_that_opens_uploads_without_end_stops_no_other(mill: Mill) -> None:
    for upload in open_uploads(mill)[0]:
        mill.call("DELETE", f"/v1/uploads/{upload}", token=ACME)
    answers = [begin(mill, ACME) for _ in range(25)]
    opened = [answer.json["upload"] for answer in answers if answer.status == 201]
    assert len(opened) == 20
    assert {(answer.status, answer.code) for answer in answers[20:]} == {(503, "overloaded")}
    assert answers[-1].headers["retry-after"] == "1"
    assert begin(mill, BETA).status == 201
    assert mill.submit(BETA, rows=MANY).status == 201
    for upload in opened:
        assert mill.call("DELETE", f"/v1/uploads/{upload}", token=ACME).status == 204
    assert mill.submit(ACME, rows=MANY).status == 201


def test_parts_that_are_never_finished_stay_on_disk_and_out_of_memory(mill: Mill) -> None:
    upload = begin(mill, ACME).json["upload"]
    before = mill.rss_mib()
    with ExitStack() as stack, mill.healthy():
        open_parts = [stack.enter_context(half_a_part(mill, upload, number)) for number in range(PARTS)]
        assert mill.call("GET", "/v1/jobs?limit=1", token=ACME).status == 200  # they were read as far as they go
        grown = mill.rss_mib() - before
        assert len(open_parts) == PARTS
    assert grown < 256
    assert mill.call("DELETE", f"/v1/uploads/{upload}", token=ACME).status == 204


def half_a_part(mill: Mill, upload: str, number: int) -> socket.socket:
    connection = mill.connect()
    head = (
        f"PUT /v1/uploads/{upload}/parts/{number} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ACME}\r\n"
        f"Content-Length: {PART_BYTES}\r\n\r\n"
    )
    connection.sendall(head.encode())
    chunk = b"x" * 65_536
    for _ in range(PART_BYTES // 2 // len(chunk)):
        connection.sendall(chunk)
    return connection


def test_bodies_without_a_length_are_stopped_at_the_limit(mill: Mill) -> None:
    body = (b"x" * 65_536 for _ in range(200))
    with mill.healthy():
        answer = stream(mill, body)
    assert answer in (b"HTTP/1.1 413", b"")


def stream(mill: Mill, chunks: Any) -> bytes:
    with mill.connect() as connection:
        head = (
            f"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ACME}\r\nContent-Type: application/json\r\n"
        )
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        try:
            for chunk in chunks:
                connection.sendall(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            return connection.recv(1000)[:12]
        except (BrokenPipeError, ConnectionResetError):
            return b""
