"""What a stage with windows is asked for, as far as all services know it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.durations import seconds_in

if TYPE_CHECKING:
    from collections.abc import Mapping

WINDOW_OPERATOR = "window"

MAX_GROUPS = 64
"""Of keys: each is a shard of every round, which reads all of its rows."""


def groups_in(params: Mapping[str, Any]) -> int:
    """Return into how many groups the keys are divided; what is no number was refused before."""
    groups = params.get("groups")
    return int(groups) if isinstance(groups, int | float) else 1


def ticking_ms(params: Mapping[str, Any]) -> int | None:
    """Return for how long after its last row time makes windows fire, in milliseconds; None if it never does.

    Time only passes for partitions that are idle. By then it has passed the end of every window and its lateness.
    """
    idle = params.get("idle")
    if idle is None:
        return None
    sliding = params.get("sliding")
    sizes = (params.get("tumbling"), params.get("session"), sliding[0] if isinstance(sliding, list | tuple) else None)
    return sum(_ms(value) for value in (idle, params.get("wait"), params.get("late"), *sizes))


def _ms(value: object) -> int:
    """Read a time span as users write it; what is none was refused before."""
    if isinstance(value, str):
        seconds = seconds_in(value)
        return int((float(value) if seconds is None else seconds) * 1000)
    return int(value * 1000) if isinstance(value, int | float) else 0
