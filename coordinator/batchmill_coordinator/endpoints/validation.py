"""Which of the faults that a validation has found is the one to report. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic_core import ErrorDetails

MAX_SHOWN = 80
_NOT_OF_THE_KIND = ("extra_forbidden", "literal_error", "missing")
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
    meant = max(
        _of_kind_meant(same), key=lambda one: (not one["type"].endswith(("_type", "_parsing")), len(one["loc"]))
    )
    place = [part for part in meant["loc"] if isinstance(part, int) or _FIELD.fullmatch(part)]
    return {**meant, "loc": tuple(place)}


def _of_kind_meant(faults: Sequence[ErrorDetails]) -> Sequence[ErrorDetails]:
    """Choose those of the kind of object that a value comes closest to; all, if there are no kinds of objects.

    If each kind has a name (`kind`) and the value has none of them, that is its fault.
    """
    kinds: dict[Any, list[ErrorDetails]] = {}
    for one in faults:
        names = [part for part in one["loc"] if isinstance(part, str) and part.isidentifier() and part[:1].isupper()]
        kinds.setdefault(names[0] if names else None, []).append(one)
    if len(kinds) < 2 or None in kinds:
        return faults
    misnamed = [one for one in faults if one["loc"][-1] == "kind" and one["type"] == "literal_error"]
    if misnamed and all(any(one["loc"][-1] == "kind" for one in found) for found in kinds.values()):
        known = ", ".join(dict.fromkeys(one["ctx"]["expected"] for one in misnamed))
        return [{**misnamed[0], "msg": f"Input should be one of {known}"}]
    return min(kinds.values(), key=lambda found: (sum(one["type"] in _NOT_OF_THE_KIND for one in found), len(found)))
