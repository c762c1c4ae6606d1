"""The watch over slots: from a slot's board, whether its process is to be replaced, and why. Pure.

Rejected: a timer inside the process. Where native code holds the interpreter's lock no thread of it runs, and one timer
serves one call, while several hooks are called at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill_worker.runtime.slot_board import NEVER, Hook

if TYPE_CHECKING:
    from batchmill_worker.runtime.slot_board import BoardState, HookCall

SILENCE_S = 60.0
"""A thread that leaves no mark for this long, while another one does, has ended or hangs."""
CONFIRMATION_S = 10.0
"""How long that has to be seen: after code that held the interpreter's lock, one thread wakes before the other."""

BATCH_LIMIT = "BATCHMILL_BATCH_TIMEOUT_S"
LIMIT_OF = {Hook.SETUP: "BATCHMILL_SETUP_TIMEOUT_S", Hook.IMPORT: "BATCHMILL_SETUP_TIMEOUT_S"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a process has to be replaced.

    blamed: the attempts that are to blame. call: the call that hangs, if it is one.
    is_dead: whether to kill it at once; else it may end its attempts first.
    """

    reason: str
    blamed: frozenset[str] = frozenset()
    call: HookCall | None = None
    is_dead: bool = True


def judge(board: BoardState, now: float, timeout_s: float) -> Verdict | None:
    """Decide whether a process has to be replaced; None: it is well.

    now: monotonic. timeout_s: how long a process may do nothing at all while it holds attempts.
    """
    for call in board.calls:
        if now - call.began_at > call.limit_s:
            setting = LIMIT_OF.get(call.hook, BATCH_LIMIT)
            what = f"{call.hook} did not end within {call.limit_s:g} s, the limit of {setting}"
            return Verdict(what, frozenset({call.attempt} - {""}), call)
    latest = max(board.heartbeat_at, board.consumer_at)
    if now - latest > timeout_s and not board.calls:
        return Verdict(f"no thread has run for {timeout_s:g} s", frozenset(board.claims))
    if latest != NEVER and latest - board.heartbeat_at > SILENCE_S:
        return Verdict("its heartbeat has ended", is_dead=False)
    if latest != NEVER and latest - board.consumer_at > SILENCE_S:
        return Verdict("it takes no messages any more", is_dead=False)
    if board.claims and not board.calls and now - board.called_at > timeout_s:
        return Verdict(f"its attempts have made no call for {timeout_s:g} s", frozenset(board.claims))
    return None


class SlotWatch:
    """Watches the processes of one machine. timeout_s: as for `judge`."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._suspected_at: dict[int, float] = {}  # by process

    def judge(self, board: BoardState, now: float) -> Verdict | None:
        """Decide as `judge` does; that a thread has ended counts once it has been seen for `CONFIRMATION_S`."""
        verdict = judge(board, now, self._timeout_s)
        if verdict is None or verdict.is_dead:
            self._suspected_at.pop(board.pid, None)
            return verdict
        return verdict if now - self._suspected_at.setdefault(board.pid, now) >= CONFIRMATION_S else None
