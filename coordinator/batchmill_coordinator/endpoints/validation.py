"""Which of the faults that a validation has found is the one to report. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic_core import ErrorDetails

MAX_SHOWN = 80
_FIELD = re.compile(r"(?!(?:str|int|float|bool|bytes|none)$)[a-z_][a-z0-9_]*")
"""Of a place the name of a field, and not of a kind: `int`, `list[int]`, `constrained-str`."""


def first_fault(errors: Sequence[ErrorDetails]) -> Mapping[str, Any]:
    """Choose the entry of `ValidationError.errors()` to explain.

    A value that may be of several kinds has an entry for each of them, whose place names the kind. The one whose
    kind fits, or that got furthest, is what was meant, and its place is shown without the kind.
    """
    first = errors[0]
    same = [one for one in errors if one["loc"][:1] == first["loc"][:1]]
    if len(same) == 1:
        return first
    meant = max(same, key=lambda one: (not one["type"].endswith(("_type", "_parsing")), len(one["loc"])))
    place = [part for part in meant["loc"] if isinstance(part, int) or _FIELD.fullmatch(part)]
    return {**meant, "loc": tuple(place)}
