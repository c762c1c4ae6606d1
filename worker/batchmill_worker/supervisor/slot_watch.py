"""The watch over slots: from a slot's board, whether its process is to be replaced, and why. Pure.

Rejected: a timer inside the process. Where native code holds the interpreter's lock no thread of it runs, and one timer
serves one call, while several hooks are called at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill_worker.runtime.slot_board import Hook

if TYPE_CHECKING:
    from batchmill_worker.runtime.slot_board import BoardState, HookCall

SILENCE_S = 60.0
"""A thread that leaves no mark for this long, while another one does, has ended or hangs."""

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


def judge(board: BoardState, now: float, patience_s: float) -> Verdict | None:
    """Decide whether a process has to be replaced; None: it is well.

    now: monotonic. patience_s: how long a process may do nothing at all while it holds attempts.
    """
    for call in board.calls:
        if now - call.began_at > call.limit_s:
            setting = LIMIT_OF.get(call.hook, BATCH_LIMIT)
            what = f"{call.hook} did not end within {call.limit_s:g} s, the limit of {setting}"
            return Verdict(what, frozenset({call.attempt} - {""}), call)
    heartbeat_s, consumer_s = now - board.heartbeat_at, now - board.consumer_at
    if min(heartbeat_s, consumer_s) > patience_s and not board.calls:
        return Verdict(f"no thread has run for {patience_s:g} s", frozenset(board.claims))
    if heartbeat_s > SILENCE_S > consumer_s:
        return Verdict("its heartbeat has ended", is_dead=False)
    if consumer_s > SILENCE_S > heartbeat_s:
        return Verdict("it takes no messages any more", is_dead=False)
    if board.claims and not board.calls and now - board.called_at > patience_s:
        return Verdict(f"its attempts have made no call for {patience_s:g} s", frozenset(board.claims))
    return None
