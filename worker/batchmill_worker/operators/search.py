"""`batchmill.search`: the nearest rows of an index, for each row with a vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from batchmill.errors import InvalidParams
from batchmill.jobs.sink import SEARCH_OPERATOR, SinkSpec
from batchmill.operators.contract import Expansion
from batchmill.operators.registration import operator
from batchmill_worker.models.setup_context import SetupContext, current
from batchmill_worker.stores.opening import open_store

MAX_BYTES = 32 * 1024 * 1024
"""Rows that a search returns, at most: the coordinator has all of them in memory."""


@operator(SEARCH_OPERATOR, columns=["{vector}"], batch_format="arrow", batch_size=None, expands=True, cacheable=False)
class SearchIndex:
    """Find the nearest rows of an index. Only the service itself runs it, for searches."""

    def __init__(
        self,
        *,
        sink: SinkSpec,
        vector: str,
        k: int,
        where: dict[str, Any],
        columns: list[str] | None = None,
    ) -> None:
        self._sink = sink
        self._vector = vector
        self._k = k
        self._where = where
        self._columns = None if columns is None else list(dict.fromkeys(columns))
        self._context = SetupContext()

    def setup(self, device: str) -> None:  # noqa: ARG002  # a store uses no device
        """Note what the worker may use."""
        self._context = current()

    def infer(self, batch: pa.Table) -> Expansion:
        """Search for each row of the batch. Raises `InvalidParams` for a column that the index does not have."""
        store = open_store(self._sink, self._context)
        vectors = [np.asarray(vector, dtype=np.float32) for vector in batch[self._vector].to_pylist()]
        if not all(np.isfinite(vector).all() for vector in vectors):
            raise InvalidParams("the vector of a search has a number that is not finite.")
        if self._sink.metric == "cosine" and not all(vector.any() for vector in vectors):
            raise InvalidParams("the vector of a search has no direction: all of its numbers are 0.")
        found = [store.search(self._sink, vector, self._k, self._where, self._columns) for vector in vectors]
        tables = [table for table in found if table.num_rows]
        results = pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})
        if results.nbytes > MAX_BYTES:
            raise InvalidParams(
                f"the rows that were found take {results.nbytes >> 20} MiB, at most {MAX_BYTES >> 20} are returned.",
                hint="Ask for fewer rows, or name the columns to return.",
            )
        return Expansion(results, [table.num_rows for table in found])
