"""The watchdog: notes which attempt is on the device, and ends the process when a batch hangs.

The timer is the interpreter's own (`faulthandler`), in C: it goes off even while a batch holds the interpreter's lock.
It writes the stack of every thread to standard error, then ends the process at once. The note is in a file mapped
into memory, which outlives the process however it ends: the supervisor reads from it which of the attempts that the
process held was on the device.

Rejected: a thread with a timer, which does not run while native code holds the interpreter's lock; and SIGALRM, whose
handler in Python waits for the same lock.
"""

from __future__ import annotations

import faulthandler
import mmap
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEFAULT_TIMEOUT_S = 600.0
HANG_FACTOR = 10
"""A batch that takes this many times what is expected hangs."""
MIN_TIMEOUT_S = 60.0
NOTE_BYTES = 512


class Watchdog:
    """Watches one batch at a time.

    timeout_s: no batch may take longer, whatever is expected of it.
    note: the file to write the note to; None: nobody reads it.
    """

    def __init__(self, timeout_s: float, note: Path | None = None) -> None:
        self._timeout_s = timeout_s
        self._note: mmap.mmap | bytearray = bytearray(NOTE_BYTES)
        if note is not None:
            note.write_bytes(bytes(NOTE_BYTES))
            with note.open("r+b") as file:
                self._note = mmap.mmap(file.fileno(), NOTE_BYTES)

    @contextmanager
    def watching(self, attempt_id: str, expected_s: float | None = None) -> Iterator[None]:
        """Note that this attempt is on the device, and end the process if the context lasts far longer than expected.

        expected_s: by the cost model; None: unknown, only `timeout_s` applies.
        """
        self._write(attempt_id)
        faulthandler.dump_traceback_later(self.timeout_s(expected_s), exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._write("")

    def timeout_s(self, expected_s: float | None) -> float:
        """Return how long a batch may take, from how long it should take."""
        if expected_s is None:
            return self._timeout_s
        return min(self._timeout_s, max(HANG_FACTOR * expected_s, MIN_TIMEOUT_S))

    def _write(self, attempt_id: str) -> None:
        self._note[:NOTE_BYTES] = attempt_id.encode()[:NOTE_BYTES].ljust(NOTE_BYTES, b"\0")


def read_note(note: Path) -> str:
    """Return the attempt that was on the device when a process ended; "" when none was, or it is unknown."""
    try:
        return note.read_bytes().rstrip(b"\0").decode()
    except (OSError, UnicodeDecodeError):
        return ""
