"""An end of TLS and SASL in front of a broker: Tansu has neither TLS nor users that it remembers.

Requests pass as they are once their connection is authenticated, so the broker behind it advertises the gate's address.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import socket
import ssl
import struct
import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support.certificates import Certificate

HANDSHAKE, API_VERSIONS, AUTHENTICATE = 17, 18, 36
UNSUPPORTED_MECHANISM, AUTHENTICATION_FAILED = 33, 58
SALT, ROUNDS, NONCE = b"salt of a test", 4096, "nonce-of-the-gate"
HASHES = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}


class KafkaGate:
    """Listens on `port`, for one user. tls: None: plain text. `upstream` is to be set to the broker's port."""

    def __init__(self, mechanism: str, user: str, password: str, tls: Certificate | None = None) -> None:
        self.scheme = "kafka" if tls is None else "kafka+ssl"
        self.upstream = 0
        self.refused = 0  # connections that did not authenticate
        self._credentials = (mechanism, user, password)
        self._context: ssl.SSLContext | None = None
        if tls is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(*tls)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(accepted,), daemon=True).start()

    def _serve(self, accepted: socket.socket) -> None:
        with suppress(OSError, EOFError), accepted:
            client = accepted if self._context is None else self._context.wrap_socket(accepted, server_side=True)
            with client, socket.create_connection(("127.0.0.1", self.upstream)) as broker:
                if not self._authenticate(client, broker):
                    self.refused += 1
                    return
                threading.Thread(target=_copy, args=(broker, client), daemon=True).start()
                _copy(client, broker)

    def _authenticate(self, client: socket.socket, broker: socket.socket) -> bool:
        mechanism, user, password = self._credentials
        login = _Plain(user, password) if mechanism == "PLAIN" else _Scram(HASHES[mechanism], user, password)
        while True:
            frame = _read_frame(client)
            key, version, correlation, body = _request(frame)
            head = struct.pack(">i", correlation)
            if key == API_VERSIONS:
                _write_frame(broker, frame)
                _write_frame(client, _read_frame(broker))
            elif key == HANDSHAKE:
                is_known = body[2:].decode() == mechanism
                name = struct.pack(">ih", 1, len(mechanism)) + mechanism.encode()
                _write_frame(client, head + struct.pack(">h", 0 if is_known else UNSUPPORTED_MECHANISM) + name)
            elif key == AUTHENTICATE:
                answer = login.answer(body[4:])
                error = AUTHENTICATION_FAILED if answer is None else 0
                sent = answer or b""
                lifetime = struct.pack(">q", 0) if version else b""
                _write_frame(client, head + struct.pack(">hhi", error, -1, len(sent)) + sent + lifetime)
                if answer is None or login.is_done:
                    return answer is not None
            else:
                return False


class _Login(ABC):
    """The server's side of a SASL mechanism."""

    is_done = False

    @abstractmethod
    def answer(self, data: bytes) -> bytes | None:
        """Answer what a client sends; None: it is refused."""


class _Plain(_Login):
    """RFC 4616."""

    def __init__(self, user: str, password: str) -> None:
        self._expected = ["", user, password]

    def answer(self, data: bytes) -> bytes | None:
        self.is_done = True
        return b"" if data.decode().split("\0") == self._expected else None


class _Scram(_Login):
    """RFC 5802, without channel binding."""

    def __init__(self, name: str, user: str, password: str) -> None:
        self._hash, self._user = name, user
        self._salted = hashlib.pbkdf2_hmac(name, password.encode(), SALT, ROUNDS)
        self._exchanged = ""
        self._nonce = ""

    def answer(self, data: bytes) -> bytes | None:
        text = data.decode()
        return self._prove(text) if self._nonce else self._challenge(text.removeprefix("n,,"))

    def _challenge(self, first: str) -> bytes | None:
        fields = _fields(first)
        self._nonce = fields["r"] + NONCE
        challenge = f"r={self._nonce},s={base64.b64encode(SALT).decode()},i={ROUNDS}"
        self._exchanged = f"{first},{challenge}"
        return challenge.encode() if fields["n"] == self._user else None

    def _prove(self, final: str) -> bytes | None:
        unproven, _, proof = final.rpartition(",p=")
        exchanged = f"{self._exchanged},{unproven}".encode()
        key = self._mac(self._salted, b"Client Key")
        signature = self._mac(hashlib.new(self._hash, key).digest(), exchanged)
        expected = bytes(left ^ right for left, right in zip(key, signature, strict=True))
        self.is_done = True
        if _fields(unproven)["r"] != self._nonce or base64.b64decode(proof) != expected:
            return None
        return b"v=" + base64.b64encode(self._mac(self._mac(self._salted, b"Server Key"), exchanged))

    def _mac(self, key: bytes, data: bytes) -> bytes:
        return hmac.new(key, data, self._hash).digest()


def _fields(message: str) -> dict[str, str]:
    return dict(field.split("=", 1) for field in message.split(","))


def _request(frame: bytes) -> tuple[int, int, int, bytes]:
    """Return a request's kind, version, correlation id and body."""
    key, version, correlation, name = struct.unpack_from(">hhih", frame)
    return key, version, correlation, frame[10 + max(name, 0) :]


def _read_frame(source: socket.socket) -> bytes:
    (size,) = struct.unpack(">i", _read(source, 4))
    return _read(source, size)


def _read(source: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = source.recv(size - len(found))
        if not part:
            raise EOFError
        found += part
    return found


def _write_frame(target: socket.socket, frame: bytes) -> None:
    target.sendall(struct.pack(">i", len(frame)) + frame)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)
