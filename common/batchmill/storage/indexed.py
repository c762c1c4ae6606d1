"""Result rows that know which input row they are of, so that those of several runs can be put in input order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Sequence

INDEX = "__batchmill_row__"
"""The last column of such a table: the 0-based index of the row in the job's input."""


def in_order(tables: Sequence[pa.Table]) -> pa.Table:
    """The rows of at least one table in input order, the index still beside them; types that differ are widened."""
    if len(tables) == 1:
        return tables[0]
    everything = pa.concat_tables(tables, promote_options="permissive")
    return everything.take(pc.sort_indices(everything[INDEX]))
