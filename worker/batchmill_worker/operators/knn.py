"""`knn` and `knn_join`: the rows of a table that are nearest to each row, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from batchmill.errors import InvalidParams
from batchmill.operators.contract import Expansion, PartialResult, RowError
from batchmill.operators.named_params import COLUMN_FORMAT, table_schema
from batchmill.operators.registration import operator
from batchmill_worker.models.setup_context import current
from batchmill_worker.vectors.matrices import Matrix, matrix_of
from batchmill_worker.vectors.metric import Metric, distances_of, score_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from batchmill_worker.vectors.base_vectors import BaseVectors

MAX_K = 1_000
DISTANCE, PREFIX = "distance", "base_"

Base = Annotated[
    str,
    Field(
        min_length=1,
        max_length=4096,
        json_schema_extra=table_schema(version="version", columns=["base_vector|vector", "columns", "key"]),
        description="The rows to compare with: a table of Lance, Delta Lake or Iceberg, or Parquet or Arrow files: a "
        "file, a folder such as the output of a job, or a glob. `job:ID` and `job:ID/STAGE` are results "
        "that the service keeps of an ended job, or of one of its stages.",
    ),
]
K = Annotated[int, Field(ge=1, le=MAX_K, description="How many rows of the base to find for each row, at most.")]
Vector = Annotated[str, Field(min_length=1, description="The column with the vectors of the rows.")]
BaseVector = Annotated[
    str | None, Field(min_length=1, description="The column with the vectors of the base; by default as `vector`.")
]
Columns = Annotated[
    list[str] | None, Field(description="The columns of the base to return; by default all but the vectors.")
]
Within = Annotated[float | None, Field(description="The largest distance of a row that is found.")]
Key = Annotated[
    str | None,
    Field(
        min_length=1,
        json_schema_extra={"format": COLUMN_FORMAT},
        description="A column of both: the row of the base with the row's own value is not found. For a table that is "
        "compared with itself.",
    ),
]
Version = Annotated[
    int | None,
    Field(ge=0, description="The version of the table; by default the newest one when the job is submitted."),
]


@dataclass(frozen=True, slots=True)
class _Scored:
    """What was found for a batch. scores and where: of shape (rows with a vector, k), the nearest first.

    where: the place of a row in `base`, which has all rows that may have been found; -1: none.
    """

    rows: pa.Table
    vectors: Matrix
    scores: npt.NDArray[np.float32]
    where: npt.NDArray[np.int64]
    base: pa.Table


@dataclass(frozen=True, slots=True)
class _Found:
    """Pairs of rows, ordered by the row and its distance."""

    counts: npt.NDArray[np.int64]  # of each row of the batch that has not failed
    distances: npt.NDArray[np.float32]
    base: pa.Table
    errors: dict[int, RowError]


class _NearestRows:
    """What both operators do: the rows of the base that are nearest to each row of a batch."""

    def __init__(
        self,
        *,
        base: Base,
        k: K = 10,
        vector: Vector = "embedding",
        base_vector: BaseVector = None,
        columns: Columns = None,
        metric: Metric = "cosine",
        within: Within = None,
        key: Key = None,
        version: Version = None,
    ) -> None:
        self._ref = (base, version, base_vector or vector, columns)
        self._k, self._vector, self._metric, self._within, self._key = k, vector, metric, within, key
        self._base: BaseVectors | None = None

    def setup(self, device: str) -> None:
        """Open the base. Raises `InvalidParams` for one that cannot be read or does not fit."""
        from batchmill_worker.vectors.base_vectors import BaseVectors, TableRef

        base, version, vector, columns = self._ref
        if columns is not None and self._key is not None and self._key not in columns:
            raise InvalidParams(
                f"`key` is {self._key!r}, which is not among `columns`.", hint="Name it there too.", parameter="key"
            )
        self._base = BaseVectors(TableRef(base, version, vector, columns), self._metric, device, current())

    def infer(self, batch: pa.Table) -> _Scored:
        """Compare all rows of the batch with all of the base."""
        import torch

        from batchmill_worker.vectors.nearest import Nearest
        from batchmill_worker.vectors.products import on_device

        base = self._opened()
        base.refresh()
        has_direction = self._metric == "cosine"
        matrix = matrix_of(batch[self._vector], self._vector, has_direction=has_direction, dimension=base.dimension)
        numbers, tables = [np.empty(0, np.int64)], [base.schema.empty_table()]
        with torch.inference_mode():
            nearest = Nearest(
                on_device(torch.from_numpy(matrix.values), self._metric, base.device),
                self._k if self._key is None else self._k + 1,
                score_of(self._within, self._metric),
            )
            for block in base.blocks():
                nearest.add(block.vectors, block.first)
                used = np.unique(nearest.places[nearest.places >= block.first].cpu().numpy())
                numbers.append(used)
                tables.append(block.rows.take(used - block.first))
            scores, places = nearest.scores.cpu().numpy(), nearest.places.cpu().numpy()
        where = np.where(places < 0, -1, np.searchsorted(np.concatenate(numbers), places))
        return _Scored(batch, matrix, scores, where, pa.concat_tables(tables))

    def teardown(self) -> None:
        """Drop the base."""
        self._base = None

    def memory_bytes(self) -> int:
        """Return what is kept of the base on the device."""
        return self._opened().nbytes

    def pairs(self, scored: _Scored) -> _Found:
        """Return the pairs that were found, without those of a row with itself."""
        is_there = scored.where >= 0
        if self._key is not None:
            is_there &= ~self._is_same(scored, is_there, self._key)
        is_there &= np.cumsum(is_there, axis=1) <= self._k
        errors = {place: RowError(f"{reason}.") for place, reason in scored.vectors.faults.items()}
        distances = distances_of(scored.scores[is_there], self._metric)
        return _Found(is_there.sum(1), distances, scored.base.take(scored.where[is_there]), errors)

    def _is_same(self, scored: _Scored, is_there: npt.NDArray[np.bool_], key: str) -> npt.NDArray[np.bool_]:
        """Return which pairs have one value of the key."""
        if key not in scored.rows.column_names:
            raise InvalidParams(f"`key` is {key!r}, which the rows do not have.", parameter="key")
        rows, ranks = np.nonzero(is_there)
        own = scored.rows[key].take(scored.vectors.places).take(rows)
        others = scored.base[key].take(scored.where[rows, ranks])
        try:
            equal = pc.fill_null(pc.equal(own, others), False)
        except pa.ArrowException as error:
            raise InvalidParams(
                f"`key` is {key!r}, which is {own.type} in the rows and {others.type} in the base.", parameter="key"
            ) from error
        found = np.zeros_like(is_there)
        found[rows, ranks] = np.asarray(equal.to_numpy(), dtype=bool)
        return found

    def _opened(self) -> BaseVectors:
        if self._base is None:
            raise RuntimeError("the base is used before setup() or after teardown()")
        return self._base


@operator("knn", columns=["{vector}"], makes=["neighbors"], batch_format="arrow", batch_size=None, cacheable=False)
class Knn(_NearestRows):
    """Find the rows of a table that are nearest to each row.

    The new column `neighbors` is a list of structs, the nearest first: `distance` and the columns of the base. All rows
    of the base are compared, block by block, and distances are exact to float32. Of equally near rows the first of the
    base are taken. Rows of the base without a vector, or with one that has no direction, are never found. The base must
    not change while a job runs, unless it is a table: all shards read the version that was there at its submission.
    """

    def finish(self, outputs: _Scored) -> PartialResult:
        """Make the column of lists."""
        found = self.pairs(outputs)
        names = [DISTANCE, *found.base.column_names]
        columns = [pa.array(found.distances), *(column.combine_chunks() for column in found.base.columns)]
        offsets = np.concatenate([[0], np.cumsum(found.counts)]).astype(np.int32)
        lists = pa.ListArray.from_arrays(pa.array(offsets), pa.StructArray.from_arrays(columns, names))
        return PartialResult(pa.table({"neighbors": lists}), found.errors)


@operator("knn_join", columns=["{vector}"], batch_format="arrow", batch_size=None, expands=True, cacheable=False)
class KnnJoin(_NearestRows):
    """Join each row with the rows of a table that are nearest to it: a result for each pair, the nearest first.

    The new columns are `distance` and those of the base, with `base_` before their names. Rows are found as by `knn`; a
    row for which none is found has no result.
    """

    def finish(self, outputs: _Scored) -> Expansion:
        """Make a row of each pair."""
        found = self.pairs(outputs)
        counts = np.zeros(outputs.rows.num_rows, np.int64)
        counts[outputs.vectors.places] = found.counts
        columns = {f"{PREFIX}{name}": found.base[name] for name in found.base.column_names}
        return Expansion(pa.table({DISTANCE: found.distances, **columns}), counts.tolist(), found.errors)
