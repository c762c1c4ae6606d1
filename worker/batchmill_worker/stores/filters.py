"""Filters of searches, in a form that every store can translate: no text of a user becomes part of a query."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from batchmill.errors import InvalidParams, did_you_mean
from batchmill_worker.stores.base import COMPARISONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchmill_worker.stores.base import Where

MAX_LISTED = 10_000


class Term(NamedTuple):
    """One comparison. value: of JSON; of `in` a list."""

    column: str
    comparison: str
    value: Any


def terms_of(where: Where) -> Iterator[Term]:
    """Yield the comparisons of a filter, all of which must hold. Raises `InvalidParams`."""
    for column, wanted in where.items():
        for comparison, value in (wanted if isinstance(wanted, dict) else {"eq": wanted}).items():
            if comparison not in COMPARISONS:
                raise InvalidParams(
                    f"where: {column!r}: unknown comparison {comparison!r}.",
                    hint=did_you_mean(comparison, COMPARISONS),
                    column=column,
                )
            _check_value(column, comparison, value)
            yield Term(column, comparison, value)


def check_columns(names: Sequence[str], known: Sequence[str]) -> None:
    """Raise `InvalidParams` for a column that the rows of an index do not have."""
    for name in names:
        if name not in known:
            raise InvalidParams(f"the index has no column {name!r}.", hint=did_you_mean(name, known), column=name)


def _check_value(column: str, comparison: str, value: Any) -> None:
    if comparison == "in":
        if not isinstance(value, list) or not 0 < len(value) <= MAX_LISTED or not all(map(_is_plain, value)):
            raise InvalidParams(f"where: {column!r}: expected a list of texts or numbers for 'in'.", column=column)
    elif not (_is_plain(value) or (value is None and comparison in ("eq", "ne"))):
        raise InvalidParams(f"where: {column!r}: expected a text, a number, true or false.", column=column)


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float)
