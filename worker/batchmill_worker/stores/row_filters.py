"""Filters of searches over rows that are in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchmill_worker.stores.base import cannot_search
from batchmill_worker.stores.filters import terms_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from batchmill_worker.stores.base import Where
    from batchmill_worker.stores.filters import Term

_COMPARISONS = {
    "eq": pc.equal,
    "ne": pc.not_equal,
    "lt": pc.less,
    "lte": pc.less_equal,
    "gt": pc.greater,
    "gte": pc.greater_equal,
}


def matching_rows(rows: pa.Table, where: Where) -> npt.NDArray[np.int64]:
    """Return the places of the rows for which a filter holds. Raises `InvalidParams` as `terms_of`, and for types."""
    matches = np.ones(rows.num_rows, dtype=bool)
    for term in terms_of(where):
        matches &= _matches(rows[term.column], term)
    return np.flatnonzero(matches)


def _matches(column: pa.ChunkedArray, term: Term) -> npt.NDArray[np.bool_]:
    if term.value is None:
        is_null = pc.is_null(column)
        return _as_array(is_null if term.comparison == "eq" else pc.invert(is_null))
    try:
        if term.comparison == "in":
            values = pa.array([_value(value, column.type, term).as_py() for value in term.value], column.type)
            return _as_array(pc.is_in(column, value_set=values))
        return _as_array(_COMPARISONS[term.comparison](column, _value(term.value, column.type, term)))
    except (pa.ArrowException, OverflowError) as error:
        raise cannot_search(f"{term.column!r} is {column.type}: {error}") from error


def _value(value: Any, kind: pa.DataType, term: Term) -> pa.Scalar:
    """Return a value of a filter as one to compare with a column of a type."""
    if pa.types.is_boolean(kind):
        fits = isinstance(value, bool)
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        fits = isinstance(value, str)
    if not fits:
        raise cannot_search(f"the values of {term.column!r} are {kind}")
    return pa.scalar(value).cast(kind) if isinstance(value, str) else pa.scalar(value)


def _as_array(found: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.fill_null(found, False).to_numpy(), dtype=bool)
