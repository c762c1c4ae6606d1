"""What a user reads about a service that cannot be reached: nothing of the HTTP library's objects."""

from __future__ import annotations

import errno
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import aiohttp
import pytest

from batchmill import Client
from batchmill.client.connection.reachability import why_unreachable
from batchmill.errors import ServiceUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator


def message_of(url: str) -> str:
    with Client(url, "t") as client, pytest.raises(ServiceUnavailable) as caught:
        client.workers()
    return caught.value.message


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A port on which one connection is answered with these bytes and closed."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(server.getsockname()[1])
        thread.join()


def test_a_port_without_a_service_is_reported_as_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert message_of(url) == f"the service at {url} cannot be reached: connection refused."


def test_a_host_name_that_does_not_exist_is_named() -> None:
    message = message_of("http://no-such-host.invalid:1")
    assert message.endswith("cannot be reached: no host is called 'no-such-host.invalid'.")


def test_connections_that_break_and_silence_are_told_apart() -> None:
    closed = "it closed the connection before its answer was complete"
    assert why_unreachable(aiohttp.ServerDisconnectedError()) == closed
    assert why_unreachable(aiohttp.ClientOSError(errno.ECONNRESET, "library text")) == "connection reset by peer"
    assert why_unreachable(aiohttp.ConnectionTimeoutError("library text")) == "it does not answer"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_does_not_speak_the_protocol_of_the_url_is_named_with_the_protocol(scheme: str) -> None:
    with answering(b"220 mail.example.org ESMTP\r\n") as port:
        url = f"{scheme}://127.0.0.1:{port}"
        assert message_of(url) == f"{url} did not answer with {scheme.upper()}."
