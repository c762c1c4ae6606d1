"""`gather`: one row of all that was made of a source row: the mean of its vectors, its texts in one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from batchmill.errors import InvalidParams, InvalidRows, nearest_of
from batchmill.operators.contract import PartialResult, RowError
from batchmill.operators.registration import operator

if TYPE_CHECKING:
    import numpy.typing as npt

Mean = Annotated[
    list[str], Field(description="Columns of numbers, or of vectors of one length, whose mean the result has.")
]
Concat = Annotated[list[str], Field(description="Columns of texts that the result has in one, in order.")]
Separator = Annotated[str, Field(max_length=1000, description="What is between the texts.")]
Normalize = Annotated[bool, Field(description="Whether means of vectors get the length 1.")]
Count = Annotated[
    str | None, Field(min_length=1, max_length=128, description="A new column with the number of rows gathered.")
]


@operator("gather", batch_format="arrow", gathers=True)
class Gather:
    """Make one row of all rows that the stages before have made of a source row.

    The result has the columns of `mean` and `concat` under their names, and `count`. Of columns that the job carries it
    has the value of the first row. A source row fails if a value is null, or if its vectors differ in length.
    """

    def __init__(
        self,
        *,
        mean: Mean = [],  # noqa: B006  # it is not changed
        concat: Concat = [],  # noqa: B006  # nor is this
        separator: Separator = "\n",
        normalize: Normalize = False,
        count: Count = None,
    ) -> None:
        if not (mean or concat or count):
            raise InvalidParams(
                "operator 'gather': expected at least one of mean, concat and count, got none.",
                hint='For the mean of the vectors of a document: mean=["vector"].',
                operator="gather",
            )
        self._mean, self._concat, self._count = mean, concat, count
        self._separator, self._normalize = separator, normalize

    def infer(self, batch: pa.Table) -> Any:
        """Gather source rows; each column of the batch is a list."""
        errors: dict[int, RowError] = {}
        columns: dict[str, pa.Array] = {}
        for name in self._mean:
            columns[name] = self._mean_of(name, _lists(batch, name), errors)
        for name in self._concat:
            columns[name] = self._concat_of(name, _lists(batch, name), errors)
        if self._count is not None:
            lists = next(column for column in batch.columns if pa.types.is_list(column.type))
            columns[self._count] = pc.list_value_length(lists)
        table = pa.table(columns)
        if not errors:
            return table
        return PartialResult(table.filter(pa.array([row not in errors for row in range(batch.num_rows)])), errors)

    def _concat_of(self, name: str, lists: pa.ListArray, errors: dict[int, RowError]) -> pa.Array:
        kind = lists.type.value_type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise InvalidRows(f"operator 'gather': the column {name!r} is {kind}, expected texts to concat.")
        found = pc.binary_join(lists, pa.scalar(self._separator, kind))
        _note(errors, found.is_null().to_numpy(zero_copy_only=False), f"a text of the column {name!r} is null")
        return found

    def _mean_of(self, name: str, lists: pa.ListArray, errors: dict[int, RowError]) -> pa.Array:
        values, offsets = lists.values, lists.offsets.to_numpy().astype(np.int64)
        values, offsets = values.slice(offsets[0], offsets[-1] - offsets[0]), offsets - offsets[0]
        counts = np.diff(offsets)
        _note(errors, _any(values.is_null(), offsets), f"a value of the column {name!r} is null")
        if not _is_vector(values.type):
            numbers = _numbers(name, values)
            return pa.array(np.add.reduceat(numbers, offsets[:-1]) / counts)
        lengths = pc.fill_null(pc.list_value_length(values), 0).to_numpy().astype(np.int64)
        firsts = np.repeat(lengths[offsets[:-1]], counts)
        differ = pa.array(lengths != firsts)
        _note(errors, _any(differ, offsets), f"the vectors of the column {name!r} differ in length")
        return self._vectors(name, values, lengths, offsets, errors)

    def _vectors(
        self,
        name: str,
        values: pa.Array,
        lengths: npt.NDArray[np.int64],
        offsets: npt.NDArray[np.int64],
        errors: dict[int, RowError],
    ) -> pa.Array:
        """Return the means of the vectors of rows without an error; of the others something of that type."""
        kind = values.type.value_type
        sizes = lengths[offsets[:-1]]
        good = [row for row in range(len(sizes)) if row not in errors]
        size = int(sizes[good[0]]) if good else 0
        _note(errors, sizes != size, f"its vectors in the column {name!r} have not the length of others, {size}")
        means = np.zeros((len(sizes), size))
        good = [row for row in good if row not in errors]
        if good:
            places = np.concatenate([np.arange(offsets[row], offsets[row + 1]) for row in good])
            flat = _numbers(name, values.take(pa.array(places)).flatten()).reshape(len(places), size)
            counts = np.diff(offsets)[good]
            starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
            means[good] = np.add.reduceat(flat, starts, axis=0) / counts[:, None]
        if self._normalize:
            norms = np.linalg.norm(means, axis=1, keepdims=True)
            means = np.divide(means, norms, out=means, where=norms > 0)
        flat_means = pa.array(means.ravel()).cast(kind if pa.types.is_floating(kind) else pa.float64())
        return pa.FixedSizeListArray.from_arrays(flat_means, size)


def _lists(batch: pa.Table, name: str) -> pa.ListArray:
    if name not in batch.column_names:
        raise InvalidRows(
            f"operator 'gather': there is no column {name!r}; the columns are: {', '.join(batch.column_names)}.",
            hint=nearest_of(name, batch.column_names),
        )
    found = batch[name].combine_chunks()
    return pa.concat_arrays(found.chunks) if isinstance(found, pa.ChunkedArray) else found


def _is_vector(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind))


def _numbers(name: str, values: pa.Array) -> npt.NDArray[np.float64]:
    """Return numbers; a null is 0."""
    kind = values.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind)):
        raise InvalidRows(f"operator 'gather': the column {name!r} has values of type {kind}, expected numbers.")
    filled = pc.fill_null(values.cast(pa.float64()), 0.0)
    return np.asarray(filled.to_numpy(zero_copy_only=False), dtype=np.float64)


def _any(flags: pa.Array, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return for each list whether one of its flags is set."""
    return np.logical_or.reduceat(flags.to_numpy(zero_copy_only=False), offsets[:-1])


def _note(errors: dict[int, RowError], rows: npt.NDArray[np.bool_], message: str) -> None:
    for row in np.flatnonzero(rows).tolist():
        errors.setdefault(row, RowError(f"{message}."))
