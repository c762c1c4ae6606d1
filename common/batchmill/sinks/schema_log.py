"""The one schema of a job's output, which grows as its workers meet new columns and wider types.

It is a sequence of small blobs, each the schema so far. Whoever has rows that the last one does not hold adds the next,
which exactly one can, so that all workers agree on the columns, their order and their types. Parts that were written
under an earlier entry are widened when the output is closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.columns import TypeConflictError, widen_schemas, widen_table
from batchmill.errors import InvalidOutput, NotFound

if TYPE_CHECKING:
    from batchmill.storage.blobs import BlobStore


class SchemaLog:
    """The schema of one job's output. Safe to use from several threads and processes at once.

    folder: of the blob store, for this job alone.
    """

    def __init__(self, blobs: BlobStore, folder: str) -> None:
        self._blobs = blobs
        self._folder = folder
        self._last: tuple[int, pa.Schema] = (0, pa.schema([]))

    def latest(self) -> tuple[int, pa.Schema]:
        """Return how many entries there are, and the last one. Raises `StorageError`."""
        number, schema = self._last
        while True:
            try:
                data = self._blobs.get(self._name(number + 1))
            except NotFound:
                self._last = (number, schema)
                return self._last
            number, schema = number + 1, pa.ipc.read_schema(pa.py_buffer(data.to_pybytes()))

    def widen(self, table: pa.Table) -> pa.Table:
        """Return the rows with the output's schema, which gets their columns and types if it lacks them.

        Raises `InvalidOutput` naming the column and both types if it cannot hold them, and `StorageError`.
        """
        try:
            return widen_table(table, self._settle(table.schema))
        except TypeConflictError as conflict:
            raise InvalidOutput(
                f"the results have no one schema: column {conflict.column!r} is {conflict.found} in some rows and "
                f"{conflict.known} in others.",
                hint="Let the operator return one type for the column.",
                column=conflict.column,
            ) from conflict

    def _settle(self, found: pa.Schema) -> pa.Schema:
        number, known = self._last
        while True:
            widened = widen_schemas(known, found)
            if number and widened.equals(known):
                return known
            number, known = self.latest()
            widened = widen_schemas(known, found)
            if number and widened.equals(known):
                return known
            self._blobs.put_new(self._name(number + 1), widened.serialize().to_pybytes())
            number, known = self.latest()

    def _name(self, number: int) -> str:
        return f"{self._folder}/{number:06}.schema"
