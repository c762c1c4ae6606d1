"""Ids of jobs and uploads."""

from __future__ import annotations

import secrets
import time

_DIGITS, _TIME_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz", 10


def new_id(kind: str) -> str:
    """A fresh id that sorts by time: `job-…`, 10 characters of milliseconds and 10 of chance, base 32."""
    return f"{kind}-{_base32(time.time_ns() // 1_000_000, 10)}{_base32(secrets.randbits(50), 10)}"


def later_id(earlier: str, steps: int) -> str:
    """Return the id that sorts behind another one by a number of milliseconds, with the same chance.

    What a job over a stream does in steps is named, and ordered, by such ids. A step takes longer than a
    millisecond, so the id of a job that is submitted after its end sorts behind all of them.
    """
    kind, _, digits = earlier.partition("-")
    time_ms = 0
    for digit in digits[:_TIME_DIGITS]:
        time_ms = time_ms * 32 + _DIGITS.index(digit)
    return f"{kind}-{_base32(time_ms + steps, _TIME_DIGITS)}{digits[_TIME_DIGITS:]}"


def id_before(kind: str, age_s: float) -> str:
    """Return the text before which all ids of a kind sort that are older than `age_s`."""
    return f"{kind}-{_base32(int((time.time() - age_s) * 1000), 10)}"


def _base32(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, 32)
        digits = _DIGITS[digit] + digits
    return digits
