"""The watchdog: notes which shard is on the device, and ends the process when a batch hangs.

The timer is the interpreter's own (`faulthandler`), in C: it goes off even while a batch holds the interpreter's lock.
It writes where every thread stands to standard error, then ends the process at once. The note lies in a file mapped
into memory, which outlives the process however it ends: the supervisor reads there which of the shards that the
process held is to blame.
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
PATIENCE = 10
"""So many times what a batch should take, and it hangs."""
LEAST_TIMEOUT_S = 60.0
NOTE_BYTES = 512


class Watchdog:
    """Watches one batch at a time.

    timeout_s: no batch may take longer, whatever is expected of it.
    note: the file to note in; None: nobody reads it.
    """

    def __init__(self, timeout_s: float, note: Path | None = None) -> None:
        self._timeout_s = timeout_s
        self._note: mmap.mmap | bytearray = bytearray(NOTE_BYTES)
        if note is not None:
            note.write_bytes(bytes(NOTE_BYTES))
            with note.open("r+b") as file:
                self._note = mmap.mmap(file.fileno(), NOTE_BYTES)

    @contextmanager
    def watching(self, whose: str, expected_s: float | None = None) -> Iterator[None]:
        """Note whose batch runs inside, and end the process if it takes far longer than expected.

        expected_s: by the cost model; None: not known, then the timeout alone holds.
        """
        self._write(whose)
        faulthandler.dump_traceback_later(self.patience_s(expected_s), exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            self._write("")

    def patience_s(self, expected_s: float | None) -> float:
        """How long a batch may take of which that much is expected."""
        if expected_s is None:
            return self._timeout_s
        return min(self._timeout_s, max(PATIENCE * expected_s, LEAST_TIMEOUT_S))

    def _write(self, whose: str) -> None:
        self._note[:NOTE_BYTES] = whose.encode()[:NOTE_BYTES].ljust(NOTE_BYTES, b"\0")


def read_note(note: Path) -> str:
    """Whose batch was on the device when a process ended; "" when none was, or it is not known."""
    try:
        return note.read_bytes().rstrip(b"\0").decode()
    except (OSError, UnicodeDecodeError):
        return ""
