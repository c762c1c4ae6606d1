"""The columns of results that have the tokens of a row: those of an operator that makes them are summed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from batchmill.jobs.status import NO_TOKENS, TokenSums

if TYPE_CHECKING:
    from collections.abc import Collection

COLUMNS = {name: f"{name}_tokens" for name in TokenSums.model_fields}
"""The columns of results that have the tokens of a row."""


def tokens_of(results: pa.Table, made: Collection[str] | None) -> TokenSums:
    """Sum the tokens of results. made: the columns that the operator makes; None: unknown, so nothing is counted."""
    counted = {name: column for name, column in COLUMNS.items() if column in (made or ())}
    if not counted or not set(counted.values()) <= set(results.column_names):
        return NO_TOKENS
    sums = {
        name: pc.sum(results[column]).as_py() or 0
        for name, column in counted.items()
        if pa.types.is_integer(results.schema.field(column).type)
    }
    return TokenSums(**{name: max(number, 0) for name, number in sums.items()})
