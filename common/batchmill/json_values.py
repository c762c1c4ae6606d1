"""Which Python values JSON, Arrow and Redis can all hold. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 32
"""How deep lists and objects may be nested in a request: Arrow's own formats end at 64, the ledger's JSON at 200."""


@dataclass(frozen=True, slots=True)
class Fault:
    """The first value that cannot be held: its field, as in "rows.0.text", and what is wrong with it."""

    field: str
    reason: str
    hint: str


def find_fault(value: Any, name: str = "") -> Fault | None:
    """The first fault in a value made of JSON's types, or None: text that UTF-8 cannot encode, a number that is not
    finite, nesting deeper than `MAX_DEPTH`.
    """
    return next(_faults(value, name, 0), None)


def is_text(text: str) -> bool:
    """Whether UTF-8 can encode it: it has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """The text with lone surrogates written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _faults(value: Any, name: str, depth: int) -> Iterator[Fault]:
    if depth > MAX_DEPTH:
        yield Fault(name[:200], f"is nested more than {MAX_DEPTH} levels deep", "Flatten it, or send it as JSON text.")
    elif isinstance(value, str) and not is_text(value):
        yield Fault(name[:200], "has a lone surrogate, which UTF-8 cannot encode", "Remove or replace it.")
    elif isinstance(value, float) and not math.isfinite(value):
        yield Fault(name[:200], f"is {value}, which JSON cannot hold", "Use null, or text.")
    else:
        yield from _faults_inside(value, name, depth)


def _faults_inside(value: Any, name: str, depth: int) -> Iterator[Fault]:
    if isinstance(value, dict):
        for key, item in value.items():
            if not is_text(str(key)):
                yield Fault(name[:200] or "body", "has a name with a lone surrogate", "Rename it.")
            yield from _faults(item, f"{name}.{printable(str(key))}".lstrip("."), depth + 1)
    elif isinstance(value, list | tuple):
        for place, item in enumerate(value):
            yield from _faults(item, f"{name}.{place}".lstrip("."), depth + 1)
