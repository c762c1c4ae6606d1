"""Messages between a process and its inspectors: a JSON value and some bytes, both with their length in front."""

from __future__ import annotations

import json
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

_LENGTHS = struct.Struct("<QQ")
MAX_BYTES = 1024**3
_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Message:
    """A question to an inspector, or its answer."""

    value: Any  # plain JSON
    data: bytes = b""


def send(connection: socket.socket, message: Message, timeout_s: float | None = None) -> None:
    """Send a message. Raises `TimeoutError`, or another `OSError` when the other side is gone."""
    value = json.dumps(message.value).encode()
    connection.settimeout(timeout_s)
    connection.sendall(_LENGTHS.pack(len(value), len(message.data)) + value)
    if message.data:
        connection.sendall(message.data)


def receive(connection: socket.socket, timeout_s: float | None = None) -> Message:
    """Receive a message. Raises `TimeoutError`, or `EOFError` or another `OSError` when the other side is gone."""
    ends_at = None if timeout_s is None else time.monotonic() + timeout_s
    value_bytes, data_bytes = _LENGTHS.unpack(_take(connection, _LENGTHS.size, ends_at))
    if value_bytes + data_bytes > MAX_BYTES:
        raise EOFError(
            f"a message of {value_bytes + data_bytes:,} bytes was announced, at most {MAX_BYTES:,} are taken"
        )
    value = json.loads(_take(connection, value_bytes, ends_at))
    return Message(value, bytes(_take(connection, data_bytes, ends_at)))


def _take(connection: socket.socket, size: int, ends_at: float | None) -> bytearray:
    taken = bytearray()
    while len(taken) < size:
        if ends_at is not None:
            left_s = ends_at - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            connection.settimeout(left_s)
        piece = connection.recv(min(size - len(taken), _PIECE_BYTES))
        if not piece:
            raise EOFError("the other side closed the connection")
        taken += piece
    return taken
