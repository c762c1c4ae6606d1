"""The vectors of a table on a device: kept there if they are few, else read again for each shard.

Imports torch: import it where an operator sets up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import torch

from batchmill.errors import InvalidParams, InvalidRows
from batchmill.jobs.sink import GENERATION, ROOT
from batchmill_worker.vectors.matrices import matrix_of
from batchmill_worker.vectors.products import Vectors, on_device
from batchmill_worker.vectors.tables import open_table, require_column

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill_worker.models.setup_context import SetupContext
    from batchmill_worker.vectors.metric import Metric

KEPT_BYTES = 1024**3


@dataclass(frozen=True, slots=True)
class TableRef:
    """Which table, and which of its columns. columns: those to return; None: all but the vectors."""

    base: str
    version: int | None
    vector: str
    columns: list[str] | None


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that have vectors. first: the number of the first one among all such rows."""

    vectors: Vectors
    rows: pa.Table
    first: int


class BaseVectors:
    """The rows of a table whose vectors can be compared, block by block."""

    def __init__(self, ref: TableRef, metric: Metric, device: str, context: SetupContext) -> None:
        """Open the table, and read it if it is to be kept. Raises `InvalidParams` for one that does not fit."""
        self._ref = ref
        self._metric = metric
        self.device = torch.device(device)
        self._context = context
        self._kept: list[Block] | None = None
        self.dimension: int | None = None
        self._open()

    def refresh(self) -> None:
        """Open the table again if it has changed. Raises as the constructor."""
        if not self._table.is_current():
            self._open()

    def blocks(self) -> Iterator[Block]:
        """Yield the rows with vectors, in order."""
        yield from self._read() if self._kept is None else self._kept

    @property
    def nbytes(self) -> int:
        """What is kept on the device."""
        return sum(block.vectors.nbytes for block in self._kept or ())

    def _open(self) -> None:
        ref = self._ref
        self._table = open_table(ref.base, ref.version, self._context)
        all_others = [name for name in self._table.schema.names if name not in (ref.vector, ROOT, GENERATION)]
        columns = list(dict.fromkeys(all_others if ref.columns is None else ref.columns))
        for name in [ref.vector, *columns]:
            require_column(name, self._table, ref.base)
        self.schema = pa.schema([self._table.schema.field(name) for name in columns])
        self._kept, self.dimension = None, None
        kept, nbytes = [], 0
        for block in self._read():
            nbytes += block.vectors.nbytes + block.rows.nbytes
            if nbytes > KEPT_BYTES:
                return
            kept.append(block)
        self._kept = kept

    def _read(self) -> Iterator[Block]:
        first = 0
        vector = self._ref.vector
        for table in self._table.blocks(list(dict.fromkeys([vector, *self.schema.names]))):
            block = self._block(table, first)
            if block is not None:
                first += len(block.vectors)
                yield block

    def _block(self, table: pa.Table, first: int) -> Block | None:
        ref = self._ref
        try:
            matrix = matrix_of(
                table[ref.vector], ref.vector, has_direction=self._metric == "cosine", dimension=self.dimension
            )
        except InvalidRows as error:
            raise InvalidParams(f"the base {ref.base}: {error.message}", hint=error.hint) from error
        wrong = next((reason for reason in matrix.faults.values() if "expected" in reason), None)
        if wrong is not None:
            raise InvalidParams(f"the base {ref.base} has vectors of several lengths: of one row {wrong}.")
        if not len(matrix.places):
            return None
        self.dimension = matrix.dimension
        rows = table.select(self.schema.names)
        if len(matrix.places) < table.num_rows:
            rows = rows.take(matrix.places)
        return Block(on_device(torch.from_numpy(matrix.values), self._metric, self.device), rows, first)
