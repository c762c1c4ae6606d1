"""Sends one message to one address, which a user may have chosen: only to public addresses, and for a limited time.

1. The name is resolved once; if any of its addresses is not public, nothing is sent. So a name cannot point into the
   network of the service.
2. The connection goes to the address that was checked. A name that resolves to another one a moment later (DNS
   rebinding) changes nothing; TLS still verifies the name.
3. Redirects are not followed. Of the answer only the status and `Retry-After` are read.
4. The connection is cut after `TIMEOUT_S`, however slowly the receiver answers.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from batchmill.wording import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

TIMEOUT_S = 15.0
MAX_REASON_CHARS = 300


@dataclass(frozen=True, slots=True)
class Answer:
    """status: of the receiver; None: there was none. error: why the message was not taken; "": it was."""

    status: int | None
    error: str = ""
    retry_after_s: float | None = None

    @property
    def is_taken(self) -> bool:
        """Whether the receiver has the message."""
        return not self.error


class NotPublic(Exception):
    """The receiver is in a private network."""


def send(
    url: str, body: bytes, headers: Mapping[str, str], *, private_network: bool, timeout_s: float = TIMEOUT_S
) -> Answer:
    """Post a message. private_network: whether its receiver may be there. Never raises for what the receiver does."""
    try:
        address = _resolve(url, private_network=private_network)
        return _post(url, address, body, headers, timeout_s)
    except NotPublic as error:
        return Answer(None, str(error))
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(None, printable(f"{type(error).__name__}: {error}")[:MAX_REASON_CHARS])


def _resolve(url: str, *, private_network: bool) -> str:
    split = urlsplit(url)
    port = split.port or (443 if split.scheme == "https" else 80)
    found = [str(info[4][0]) for info in socket.getaddrinfo(split.hostname, port, type=socket.SOCK_STREAM)]
    if not private_network:
        for address in found:
            if not _is_public(address):
                raise NotPublic(f"{split.hostname} is at {address}, which is not a public address")
    return found[0]


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inside is not None:
            address = inside
        elif address in _NAT64:
            address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        elif address.is_site_local:  # private in all but Python's `is_global`
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _post(url: str, address: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Answer:
    split = urlsplit(url)
    connection = _connection(split.scheme, split.hostname or "", split.port, address, timeout_s)
    timer = threading.Timer(timeout_s, _cut, [connection])
    timer.daemon = True
    timer.start()
    try:
        target = split._replace(scheme="", netloc="", fragment="").geturl() or "/"
        connection.request("POST", target, body, {"Content-Type": "application/json", **headers})
        answer = connection.getresponse()
        return _judged(answer.status, answer.headers.get("Retry-After"))
    finally:
        timer.cancel()
        connection.close()


def _connection(scheme: str, host: str, port: int | None, address: str, timeout_s: float) -> _Pinned:
    if scheme == "https":
        return _PinnedTls(host, port, address, timeout_s)
    return _Pinned(host, port, address, timeout_s)


class _Pinned(http.client.HTTPConnection):
    """Goes to an address whatever its host resolves to."""

    def __init__(self, host: str, port: int | None, address: str, timeout_s: float) -> None:
        super().__init__(host, port, timeout=timeout_s)
        self.address = address
        self.is_cut = False

    def connect(self) -> None:
        """Connect to the address."""
        self.sock = socket.create_connection((self.address, self.port), self.timeout)


class _PinnedTls(_Pinned):
    """The same over TLS, which verifies the host."""

    default_port = http.client.HTTPS_PORT

    def connect(self) -> None:
        """Connect to the address, and verify that it is the host."""
        super().connect()
        self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)
        if self.is_cut:  # while hands were shaken nothing could be ended: the socket is handed over before
            raise TimeoutError("timed out")


def _cut(connection: _Pinned) -> None:
    """End a connection that lasts too long, from another thread: what waits for it fails."""
    connection.is_cut = True
    if connection.sock is not None:
        try:
            connection.sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # it has just ended
            return


def _judged(status: int, retry_after: str | None) -> Answer:
    if 200 <= status < 300:
        return Answer(status)
    moved = ", and redirects are not followed" if 300 <= status < 400 else ""
    seconds = float(retry_after) if retry_after and retry_after.isascii() and retry_after.isdecimal() else None
    return Answer(status, f"the receiver answered {status}{moved}", seconds)
