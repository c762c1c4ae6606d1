"""Single keys from a terminal, without Enter and without an echo."""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, Any, Self, TextIO

if TYPE_CHECKING:
    from types import TracebackType


class Keyboard:
    """Reads keys while it is open, and restores the terminal on exit. A source that is no terminal yields no keys."""

    def __init__(self, source: TextIO) -> None:
        self._file: int | None = source.fileno() if source.isatty() else None
        self._before: list[Any] | None = None

    def __enter__(self) -> Self:
        if self._file is not None:
            import termios
            import tty

            self._before = termios.tcgetattr(self._file)
            tty.setcbreak(self._file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None and self._before is not None:
            import termios

            termios.tcsetattr(self._file, termios.TCSADRAIN, self._before)

    def pressed(self, within_s: float) -> str:
        """Return the next key, or "" if none is pressed in time."""
        if self._file is None:
            time.sleep(within_s)
            return ""
        if not select.select([self._file], [], [], within_s)[0]:
            return ""
        return os.read(self._file, 1).decode("latin-1") or "\x04"  # nothing to read: the terminal is gone
