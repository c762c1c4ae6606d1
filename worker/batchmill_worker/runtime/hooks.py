"""Calls of a user's code: each is shown on the slot's board, with its limit, and can end nothing but itself.

A `BaseException` that is no `Exception`, such as SystemExit, KeyboardInterrupt, CancelledError or the panic of a
library in Rust, ends the call with `UserCodeExit`, which is handled like any other failure of the operator. A process
that user code has forked and that returns from the call is ended: only the worker's own process may settle rows.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from batchmill_worker.runtime.failures import UserCodeExit
from batchmill_worker.runtime.slot_board import Hook, SlotBoard

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

DEFAULT_TIMEOUT_S = 600.0

_attempt: ContextVar[str] = ContextVar("attempt", default="")


@contextmanager
def calls_for(attempt: str) -> Iterator[None]:
    """While it lasts, calls in this context are made for this attempt."""
    token = _attempt.set(attempt)
    try:
        yield
    finally:
        _attempt.reset(token)


@dataclass(frozen=True, slots=True)
class HookLimits:
    """How long a call may take, seconds. setup_s: of `setup`, the constructor, and the import of a module."""

    batch_s: float = DEFAULT_TIMEOUT_S
    setup_s: float = DEFAULT_TIMEOUT_S

    def of(self, hook: Hook) -> float:
        """Return the limit of a hook."""
        match hook:
            case Hook.SETUP | Hook.IMPORT:
                return self.setup_s
            case Hook.COSTS | Hook.PREPARE | Hook.INFER | Hook.FINISH | Hook.TEARDOWN:
                return self.batch_s
            case Hook.ROW_KEY | Hook.FINGERPRINT | Hook.COMPUTES_WITH:
                return self.batch_s
            case never:
                assert_never(never)


class HookGuard:
    """Guards calls of a user's code in one process. Thread-safe."""

    def __init__(self, board: SlotBoard | None = None, limits: HookLimits | None = None) -> None:
        self.board = board or SlotBoard()
        self.limits = limits or HookLimits()
        self.pid = os.getpid()

    def calling(self, hook: Hook) -> GuardedCall:
        """Guard one call while the context lasts. Raises `UserCodeExit` in place of what would end the thread."""
        return GuardedCall(self, hook)


class GuardedCall:
    """One call of a hook; a class, since a generator could not raise what a `GeneratorExit` becomes."""

    __slots__ = ("_guard", "_hook", "_place")

    def __init__(self, guard: HookGuard, hook: Hook) -> None:
        self._guard = guard
        self._hook = hook

    def __enter__(self) -> None:
        guard = self._guard
        # what is torn down is no longer this attempt's
        attempt = "" if self._hook is Hook.TEARDOWN else _attempt.get()
        self._place = guard.board.enter(self._hook, attempt, guard.limits.of(self._hook))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if os.getpid() != self._guard.pid:
            os._exit(1)
        self._guard.board.leave(self._place)
        if error is not None and not isinstance(error, Exception):
            raise UserCodeExit from error


NO_GUARD = HookGuard()
"""Contains what a call raises, and shows it to nobody."""
