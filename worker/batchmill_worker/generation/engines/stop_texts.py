"""Stop texts in an answer that comes in pieces: where the first one begins, and which text is surely before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class StopSearch:
    """Searches the text of one answer. end: where its first stop text begins; None: none is in it yet."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._text = ""
        self._shown = 0
        self.end: int | None = None

    @property
    def text(self) -> str:
        """The text so far, without the stop text."""
        return self._text[: self.end]

    def more(self, piece: str) -> str:
        """Add text; return the part that was not returned yet, and that no stop text can begin in."""
        start = max(len(self._text) - self._longest, 0)
        self._text += piece
        found = [place for stop in self._stops if (place := self._text.find(stop, start)) >= 0]
        self.end = min(found, default=None)
        end = len(self._text) - self._held() if self.end is None else self.end
        shown, self._shown = self._text[self._shown : end], max(end, self._shown)
        return shown

    def _held(self) -> int:
        """How many characters at the end may be the beginning of a stop text."""
        lengths = range(min(self._longest - 1, len(self._text)), 0, -1)
        return next((size for size in lengths if any(one.startswith(self._text[-size:]) for one in self._stops)), 0)
