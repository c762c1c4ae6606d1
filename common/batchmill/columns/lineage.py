"""Which row of a job's source a result was made from, through all stages.

The path of a row is the index of its source row, then its number among the results of one row at each expanding stage
that it has passed: 17, 17.3, 17.3.0. The order of paths is the order of rows. Results have it in two columns:
`SOURCE_ROW`, and from the first expanding stage of a chain on `SOURCE_PATH`, which has the other numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    import numpy.typing as npt

SOURCE_ROW = "source_row"
"""The first column of what an operator that expands makes, and of all results of a chain: the index of the row of the
job's source."""

SOURCE_PATH = "source_path"
"""The second column of the results of a chain, from its first expanding stage on: the rest of their path."""

MEMBER_PATHS = "__batchmill_paths__"
"""The column of gathered results with the rest of the path of each of them; no operator sees it."""

Path = tuple[int, ...]

LINEAGE = (SOURCE_ROW, SOURCE_PATH)


def lineage_of(table: pa.Table) -> pa.Table:
    """Return the columns of the results of a stage that say where they are from."""
    return table.select([name for name in LINEAGE if name in table.column_names])


def without_lineage(table: pa.Table) -> pa.Table:
    """Return all other columns."""
    names = [name for name in (*LINEAGE, MEMBER_PATHS) if name in table.column_names]
    return table.drop_columns(names) if names else table


def lineage_of_results(
    inputs: pa.Table | None, rows: npt.NDArray[np.int64], first_row: int, *, expands: bool
) -> pa.Table:
    """Return the lineage of results.

    inputs: that of a stage's input from `first_row` on; None: the input is the job's source.
    rows: for each result the index of its row in the stage's input, ascending.
    expands: whether a row may have any number of results, so that paths get one number more.
    """
    places = pa.array(rows - first_row)
    columns = {SOURCE_ROW: pa.array(rows) if inputs is None else inputs[SOURCE_ROW].take(places)}
    before = None
    if inputs is not None and SOURCE_PATH in inputs.column_names:
        before = inputs[SOURCE_PATH].take(places)
    if expands:
        columns[SOURCE_PATH] = _longer(before, _numbers(rows))
    elif before is not None:
        columns[SOURCE_PATH] = before
    return pa.table(columns)


def path_at(lineage: pa.Table, place: int) -> Path:
    """Return the path of a row by its place in a table."""
    return paths_of(lineage.slice(place, 1))[0]


def paths_of(table: pa.Table) -> list[Path]:
    """Return the paths of the rows of a table that has their lineage."""
    rows = table[SOURCE_ROW].to_pylist()
    if SOURCE_PATH not in table.column_names:
        return [(row,) for row in rows]
    return [(row, *rest) for row, rest in zip(rows, table[SOURCE_PATH].to_pylist(), strict=True)]


def in_path_order(table: pa.Table) -> pa.Table:
    """Return the rows of a table that has their lineage in the order of their paths."""
    paths = paths_of(table)
    return table.take(pa.array(sorted(range(len(paths)), key=paths.__getitem__), pa.int64()))


def _numbers(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Number the results of each row from 0."""
    starts = np.flatnonzero(np.diff(rows, prepend=rows[:1] - 1))
    counts = np.diff(starts, append=rows.size)
    return (np.arange(rows.size) - np.repeat(starts, counts)).astype(np.int32)


def _longer(paths: pa.ChunkedArray | None, numbers: npt.NDArray[np.int32]) -> pa.Array:
    """Append a number to each path; all have as many."""
    ends = numbers.reshape(-1, 1)
    if paths is not None:
        before = paths.combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.int32)
        ends = np.hstack([before.reshape(numbers.size, before.size // max(numbers.size, 1)), ends])
    offsets = np.arange(numbers.size + 1, dtype=np.int32) * ends.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(ends.ravel(), pa.int32()))
