"""What a slot process leaves for its supervisor to read, in a folder that the two share."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from batchmill.errors import from_envelope

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill.errors import BatchmillError


class SlotFiles:
    """The files of one slot, by its name."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.note = folder / name
        """The watchdog's: whose batch is on the device."""
        self._refusal = folder / f"{name}.refusal"

    def refuse(self, error: BatchmillError) -> None:
        """Leave why the process cannot start, and will not until somebody changes something."""
        self._refusal.write_text(json.dumps(error.envelope()))

    def take_refusal(self) -> BatchmillError | None:
        """Why the process that ended last could not start, told once; None if it did not say so."""
        try:
            told = self._refusal.read_text()
        except FileNotFoundError:
            return None
        self._refusal.unlink()
        return from_envelope(json.loads(told), http_status=0)
