"""Result rows that know which input row they are of, so that those of several runs can be put in input order."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from batchmill.columns import widen_schemas, widen_table

if TYPE_CHECKING:
    from collections.abc import Sequence

INDEX = "__batchmill_row__"
"""The last column of such a table: the 0-based index of the row in the job's input."""


def in_order(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of at least one table in input order, the index still beside them; types that differ are widened.

    Raises `TypeConflictError` where they have nothing in common.
    """
    if len(tables) == 1:
        return tables[0]
    schema = reduce(widen_schemas, [table.schema for table in tables])
    everything = pa.concat_tables([widen_table(table, schema) for table in tables])
    return everything.take(pc.sort_indices(everything[INDEX]))
