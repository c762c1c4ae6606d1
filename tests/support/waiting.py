"""Waiting in tests: for the thing itself, never for a length of time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

GRACE_S = 90.0
"""More than anything that a test waits for takes on a busy machine."""


def until(condition: Callable[[], bool], what: str) -> None:
    """Return when the condition holds; fail, naming what did not happen, after `GRACE_S`."""
    ends_at = time.monotonic() + GRACE_S
    while not condition():
        assert time.monotonic() < ends_at, f"{what} did not happen within {GRACE_S} s"
        time.sleep(0.02)
