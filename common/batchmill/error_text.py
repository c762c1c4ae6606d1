"""What an exception says, in one line, for a message of Batchmill's own."""

from __future__ import annotations


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message; of one without a message, the name of its type."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
