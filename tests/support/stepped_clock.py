"""A clock of a process that tests set: the library of the Debian package `libfaketime`, loaded before all others."""

from __future__ import annotations

import math
import time
from pathlib import Path

LIBRARIES = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1")


def stepping_library() -> Path | None:
    """Return the library, if it is installed."""
    return next((path for pattern in LIBRARIES for path in sorted(Path("/").glob(pattern[1:]))), None)


class SteppedClock:
    """The wall clock of processes that start with `env`. file: what they read it from."""

    def __init__(self, file: Path, library: Path) -> None:
        self._file = file
        self._library = library
        self.set_ahead(0)

    @property
    def env(self) -> dict[str, str]:
        """Return the variables of a process whose clock this is; its monotonic clock stays right."""
        return {
            "LD_PRELOAD": str(self._library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set_ahead(self, seconds: int) -> None:
        """Set the clock ahead of this machine's, or behind it."""
        self._right_since = math.inf if seconds else time.monotonic()
        beside = self._file.with_suffix(".new")
        beside.write_text(f"{seconds:+d}")
        beside.replace(self._file)

    def was_right_since(self, moment: float) -> bool:
        """Whether the clock was not set ahead or behind at any time since then (monotonic)."""
        return self._right_since <= moment
