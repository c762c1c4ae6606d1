"""Ids of jobs and uploads."""

from __future__ import annotations

import secrets
import time


def new_id(kind: str) -> str:
    """A fresh id that sorts by time: `job-…`, 10 characters of milliseconds and 10 of chance, base 32."""
    return f"{kind}-{_base32(time.time_ns() // 1_000_000, 10)}{_base32(secrets.randbits(50), 10)}"


def id_before(kind: str, age_s: float) -> str:
    """Return the text before which all ids of a kind sort that are older than `age_s`."""
    return f"{kind}-{_base32(int((time.time() - age_s) * 1000), 10)}"


def _base32(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, 32)
        digits = "0123456789abcdefghjkmnpqrstvwxyz"[digit] + digits
    return digits
