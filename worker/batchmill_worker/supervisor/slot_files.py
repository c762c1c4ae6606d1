"""The files through which a slot process reports to its supervisor, in a folder that the two share."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING

from batchmill.errors import from_envelope

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill.errors import BatchmillError


DUMP_SIGNAL = signal.SIGUSR2
"""Has a slot process write the stack of each thread to its log, even while native code holds the interpreter's lock."""


class LeavingFile:
    """What the device processes of a supervisor read about the end of their machine."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "leaves-at"

    def write(self, at_s: float) -> None:
        """Say it, in seconds since the epoch."""
        new = self._path.with_suffix(".new")
        new.write_text(repr(at_s))
        new.replace(self._path)

    def read(self) -> float | None:
        """Return what was said; None if nothing was."""
        try:
            return float(self._path.read_text())
        except FileNotFoundError:
            return None


class SlotFiles:
    """The files of one slot, by its name."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.board = folder / name
        """What the process is at, see `SlotBoard`."""
        self._refusal = folder / f"{name}.refusal"

    def refuse(self, error: BatchmillError) -> None:
        """Report why the process cannot start, for a cause that a restart does not remove."""
        self._refusal.write_text(json.dumps(error.envelope()))

    def take_refusal(self) -> BatchmillError | None:
        """Return, once, why the last process could not start; None if it did start, or died for another cause."""
        try:
            envelope = self._refusal.read_text()
        except FileNotFoundError:
            return None
        self._refusal.unlink()
        return from_envelope(json.loads(envelope), http_status=0)
