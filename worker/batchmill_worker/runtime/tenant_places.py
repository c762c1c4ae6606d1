"""How tenants share the places of an engine for their interactive requests. Pure.

An answer holds its place for as long as it is generated, which may be a minute, and is not interrupted for another
one. So places are left for who comes next: a tenant alone gets three quarters of them, and the last one goes to a
tenant that has none.

Rejected: equal shares, counted when a place is free. All of them are then held by the first tenant.
"""

from __future__ import annotations

HELD_PER_FREE = 3


def may_enter(held: int, free: int) -> bool:
    """Whether a tenant that holds that many places gets one of those that are free."""
    return held < HELD_PER_FREE * free and (free > 1 or not held)
