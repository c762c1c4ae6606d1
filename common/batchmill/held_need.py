"""A number that goes up at once and down late: a worker that was just started is not stopped for a short gap."""

from __future__ import annotations

from collections import deque


class HeldNeed:
    """The largest of the numbers of the last while. Times are seconds of one clock that does not go back."""

    def __init__(self) -> None:
        self._needs: deque[tuple[float, int]] = deque()  # falling numbers, each with when it was noted last

    def note(self, need: int, now_s: float, hold_s: float) -> int:
        """Note a number, and return the largest one of the last `hold_s`."""
        while self._needs and self._needs[-1][1] <= need:
            self._needs.pop()
        self._needs.append((now_s, need))
        while self._needs[0][0] < now_s - hold_s:
            self._needs.popleft()
        return self._needs[0][1]
