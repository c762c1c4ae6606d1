"""The board of a slot: what its process is at, in memory that it shares with the supervisor.

1. The process notes which attempts it claims, before it claims them, and which hook of an operator each thread is in.
2. Its heartbeat and its consumer of messages each leave a mark about once a second.
3. The supervisor reads the board: which leases to keep while the process lives, which hook takes longer than its
   limit, which thread has ended, and, when the process dies, which attempts may be to blame.

The board is a file mapped into memory. It needs no system call to write, is complete however the process ends, and can
be read while native code holds the interpreter's lock. Each entry carries a checksum: the supervisor skips one that is
just being written. Times are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import time
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_HEAD = struct.Struct("=qddd")  # process, a time for each pulse
_CRC = struct.Struct("=I")
_ENTRY = struct.Struct("=dd16s420s")  # began at, limit in seconds, hook (empty: a claim), attempt
_ENTRY_BYTES = _CRC.size + _ENTRY.size
_NO_ENTRY = bytes(_ENTRY_BYTES)
_NO_CRC = bytes(_CRC.size)
ENTRIES = 128  # more than the threads of a process that run attempts, with their claims
BOARD_BYTES = _HEAD.size + ENTRIES * _ENTRY_BYTES
NEVER = math.inf  # of a pulse that is not to be expected now


class Hook(StrEnum):
    """Code of a user that a worker calls."""

    IMPORT = "import"
    SETUP = "setup"
    COSTS = "costs"
    PREPARE = "prepare"
    INFER = "infer"
    FINISH = "finish"
    TEARDOWN = "teardown"
    ROW_KEY = "row_key"
    FINGERPRINT = "fingerprint"
    COMPUTES_WITH = "computes_with"


class Pulse(IntEnum):
    """Who leaves a mark about once a second; or, for a call, whenever one begins or ends."""

    HEARTBEAT = 0
    CONSUMER = 1
    CALL = 2


@dataclass(frozen=True, slots=True)
class HookCall:
    """A call of a hook that has not returned. attempt: for which it was made; "": for none."""

    hook: Hook
    attempt: str
    began_at: float
    limit_s: float


@dataclass(frozen=True, slots=True)
class BoardState:
    """What a board shows at one moment. Times are monotonic, `NEVER` for a mark that is not expected."""

    pid: int
    heartbeat_at: float
    consumer_at: float
    called_at: float
    claims: tuple[str, ...] = ()
    calls: tuple[HookCall, ...] = ()


class SlotBoard:
    """The board, for the process that writes it. Thread-safe.

    path: the file to share; None: nobody reads it.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._memory: mmap.mmap | bytearray = bytearray(BOARD_BYTES)
        if path is not None:
            path.write_bytes(bytes(BOARD_BYTES))
            with path.open("r+b") as file:
                self._memory = mmap.mmap(file.fileno(), BOARD_BYTES)
        _HEAD.pack_into(self._memory, 0, os.getpid(), NEVER, NEVER, time.monotonic())
        # an item of it is written in one store; `struct` writes zeros first, which the supervisor may read as a time
        self._times = memoryview(self._memory)[: _HEAD.size].cast("d")
        self._free = list(range(ENTRIES))
        self._lock = Lock()

    def mark(self, pulse: Pulse, at: float | None = None) -> None:
        """Leave a mark. at: `NEVER` until the next mark; None: now."""
        self._times[1 + pulse] = time.monotonic() if at is None else at

    @contextmanager
    def claiming(self, attempt: str) -> Iterator[None]:
        """Show an attempt as this process's while the context lasts: enter it before the claim."""
        place = self._take("", attempt, math.inf)
        self.mark(Pulse.CALL)
        try:
            yield
        finally:
            self._release(place)

    def enter(self, hook: Hook, attempt: str, limit_s: float) -> int:
        """Show that a hook is called, until `leave` with what this returns."""
        self.mark(Pulse.CALL)
        return self._take(hook, attempt, limit_s)

    def leave(self, place: int) -> None:
        """Show that the call has returned."""
        self._release(place)
        self.mark(Pulse.CALL)

    def _take(self, hook: str, attempt: str, limit_s: float) -> int:
        entry = _ENTRY.pack(time.monotonic(), limit_s, hook.encode(), attempt.encode())
        with self._lock:
            place = self._free.pop()
        self._write(place, _CRC.pack(zlib.crc32(entry)) + entry)
        return place

    def _release(self, place: int) -> None:
        self._write(place, _NO_ENTRY)
        with self._lock:
            self._free.append(place)

    def _write(self, place: int, entry: bytes) -> None:
        start = _HEAD.size + place * _ENTRY_BYTES
        self._memory[start : start + _ENTRY_BYTES] = entry


def read_board(path: Path, pid: int) -> BoardState | None:
    """Read the board of a process; None before that process has made one."""
    try:
        board = path.read_bytes()
    except OSError:
        return None
    if len(board) != BOARD_BYTES:
        return None
    writer, heartbeat_at, consumer_at, called_at = _HEAD.unpack_from(board)
    if writer != pid:
        return None
    claims: list[str] = []
    calls: list[HookCall] = []
    for start in range(_HEAD.size, BOARD_BYTES, _ENTRY_BYTES):
        checksum = board[start : start + _CRC.size]
        if checksum == _NO_CRC:
            continue
        entry = board[start + _CRC.size : start + _ENTRY_BYTES]
        if checksum != _CRC.pack(zlib.crc32(entry)):
            continue
        began_at, limit_s, hook, attempt = _ENTRY.unpack(entry)
        name, key = hook.rstrip(b"\0").decode(), attempt.rstrip(b"\0").decode()
        if name:
            calls.append(HookCall(Hook(name), key, began_at, limit_s))
        else:
            claims.append(key)
    return BoardState(pid, heartbeat_at, consumer_at, called_at, tuple(claims), tuple(calls))
