"""What is sent before authentication: endless heads, silent connections, framing without a body."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from support.attack import Mill, read_answer
from support.waiting import until

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

CHUNK = b"x" * 65_536
MOST = 64 * len(CHUNK)  # 4 MiB: more than any limit, little enough for a test


def endless_line() -> Iterator[bytes]:
    yield b"GET /v1/jobs?"
    yield from [CHUNK] * 64


def endless_header() -> Iterator[bytes]:
    yield b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nX-a: "
    yield from [CHUNK] * 64


def endless_headers() -> Iterator[bytes]:
    yield b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\n"
    yield from (b"".join(b"X-%d-%d: y\r\n" % (n, m) for m in range(5_000)) for n in range(64))


def endless_name() -> Iterator[bytes]:
    yield b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\n"
    yield from [CHUNK] * 64


def endless_extension() -> Iterator[bytes]:
    yield b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;e="
    yield from [CHUNK] * 64


def endless_trailers() -> Iterator[bytes]:
    yield b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    yield from (b"".join(b"X-%d-%d: y\r\n" % (n, m) for m in range(5_000)) for n in range(64))


@pytest.mark.parametrize(
    "attack", [endless_line, endless_header, endless_headers, endless_name, endless_extension, endless_trailers]
)
def test_an_endless_head_or_framing_is_cut_off_and_costs_no_memory(mill: Mill, attack: type) -> None:
    before = mill.rss_mib()
    with mill.healthy(), mill.connect() as connection:
        sent = 0
        try:
            for piece in attack():
                connection.sendall(piece)
                sent += len(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        answer = read_answer(connection)
    assert sent < MOST or answer
    assert not answer or answer.split(b" ")[1] in (b"431", b"400", b"401")
    assert mill.rss_mib() - before < 64


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-a: " + b"y" * 40_000 + b"\r\n\r\n", b"431"),
        (b"GET /healthz?" + b"y" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"431"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"X-a: y\r\n" * 10_000 + b"\r\n", b"431"),
        (b"NONSENSE\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-a: " + b"y" * 20_000 + b"\r\n\r\n", b"200"),
    ],
)
def test_a_large_or_malformed_head_gets_its_status_in_the_envelope(mill: Mill, head: bytes, status: bytes) -> None:
    with mill.connect() as connection:
        connection.sendall(head)
        answer = read_answer(connection)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert status == b"200" or b'{"error": {"code": ' in answer


def test_connections_that_send_half_a_head_are_closed_in_time(mill: Mill) -> None:
    with ExitStack() as stack, mill.healthy():
        silent = [stack.enter_context(mill.connect()) for _ in range(50)]
        for connection in silent[:25]:
            connection.sendall(b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nX-a: ")
        started = time.monotonic()
        answers = [read_answer(connection) for connection in silent]
    assert time.monotonic() - started < 10
    assert all(answer.startswith(b"HTTP/1.1 408") for answer in answers)


def test_a_slow_head_is_closed_although_bytes_keep_coming(mill: Mill) -> None:
    with mill.connect() as connection:
        connection.sendall(b"GET /v1/jobs HTTP/1.1\r\nHost: x\r\nX-a: ")
        connection.settimeout(0.2)
        answer, ends_at = b"", time.monotonic() + 10
        while not answer and time.monotonic() < ends_at:
            try:
                connection.sendall(b"y")
                answer = connection.recv(1000)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408")


def test_more_connections_than_allowed_are_refused_and_the_others_are_served(mill: Mill) -> None:
    with ExitStack() as stack:
        held = [stack.enter_context(mill.connect()) for _ in range(170)]
        for connection in held:
            connection.settimeout(5)
        refused = [answer for answer in map(first_bytes, held[-10:]) if answer.startswith(b"HTTP/1.1 503")]
    assert len(refused) == 10
    until(lambda: mill.call("GET", "/healthz", token="").status == 200, "the connections' end")


def first_bytes(connection: socket.socket) -> bytes:
    try:
        return connection.recv(1000)
    except (TimeoutError, ConnectionResetError):
        return b""
