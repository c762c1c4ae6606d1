"""The results of a stage as one that gathers reads them: a row for each source row, its columns lists.

Everything behind this seam (halving, checkpoints, dead letters, replays, batches) has rows as any other stage has.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from batchmill.columns import UnfitValue, join_what_fits, values_of
from batchmill.columns.lineage import MEMBER_PATHS, SOURCE_PATH, SOURCE_ROW
from batchmill.jobs.dead_letters import INCOMPLETE, TOO_LARGE
from batchmill.ledger.formats.encodings import SourceRowBorders
from batchmill.sources.base import BadRow, RowsRead, bad_values

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from batchmill.jobs.shard import Slice
    from batchmill.stage_results import StageResults

MAX_SOURCE_ROW_BYTES = 64 * 1024 * 1024
"""Of what one source row has become, as it is gathered."""


class GatheredResults:
    """Reads the results of a stage, those of each source row as one row; a `RowReader`. Thread-safe."""

    def __init__(self, results: StageResults) -> None:
        self._results = results

    def read(self, slices: tuple[Slice, ...]) -> pa.Table:
        """Read complete source rows, with the paths of their results where those have some.

        Of one that is too large the rest is left out. Raises as `StageResults.read`.
        """
        return gathered(self._read(slices)[0])

    def read_with_faults(self, slices: tuple[Slice, ...]) -> RowsRead:
        """Read as `read`; source rows are listed that are incomplete or too large, or have values of several types."""
        found, unfit_values, too_large = self._read(slices)
        table = gathered(found)
        unfit = {one.place: one for one in bad_values(_lists_of(unfit_values, found))}
        rows = table[SOURCE_ROW].to_pylist() if table.num_columns else []
        bad = []
        for place, (row, is_incomplete) in enumerate(zip(rows, self._results.are_incomplete(rows), strict=True)):
            if row in too_large:
                reason = f"its results are more than {MAX_SOURCE_ROW_BYTES:,} bytes, the most that is gathered"
                bad.append(BadRow(place, f"source row {row}", 0, "", reason, TOO_LARGE))
            elif is_incomplete:
                reason = "rows that were made of it failed in an earlier stage"
                bad.append(BadRow(place, f"source row {row}", 0, "", reason, INCOMPLETE))
            elif place in unfit:
                bad.append(unfit[place])
        return RowsRead(table, tuple(bad))

    def origins(self, slices: Sequence[Slice], places: Sequence[int]) -> list[str]:  # noqa: ARG002  # see `Source`
        """Return empty texts: a row between stages is in no file of a user."""
        return [""] * len(places)

    def _read(self, slices: tuple[Slice, ...]) -> tuple[pa.Table, list[UnfitValue], set[int]]:
        """Read parts one after the other; return the rows, and values that they lack.

        Returns also which source rows are too large: there are not all rows of those.
        """
        tables: list[pa.Table] = []
        open_row, open_bytes = -1, 0  # the source row that the next part may continue
        for one in slices:
            table = self._results.read((one,))
            rows = table[SOURCE_ROW].to_numpy()
            starts = _starts(rows)
            first_end = starts[1] if len(starts) > 1 else len(rows)
            if int(rows[0]) == open_row:
                if open_bytes > MAX_SOURCE_ROW_BYTES:
                    table, first_end = table.slice(first_end), 0
                open_bytes += table.slice(0, first_end).nbytes
            if len(starts) > 1 or int(rows[0]) != open_row:
                open_row, open_bytes = int(rows[-1]), table.slice(table.num_rows - (len(rows) - starts[-1])).nbytes
            tables.append(table)
        found, unfit = join_what_fits(tables)
        return found, unfit, _too_large(found) if found.nbytes > MAX_SOURCE_ROW_BYTES else set()


def gathered(table: pa.Table) -> pa.Table:
    """Make a row of each run of rows of one source row: its columns are lists, but for `source_row`."""
    if not table.num_columns:
        return table
    rows = table[SOURCE_ROW].to_numpy()
    starts = _starts(rows)
    offsets = pa.array([*starts, len(rows)], pa.int32())
    columns = {SOURCE_ROW: pa.array(rows[starts])}
    for name in table.column_names:
        if name != SOURCE_ROW:
            listed = pa.ListArray.from_arrays(offsets, _one_array(table[name]))
            columns[MEMBER_PATHS if name == SOURCE_PATH else name] = listed
    return pa.table(columns)


def borders_of(table: pa.Table) -> SourceRowBorders:
    """Return where source rows begin in the results of a shard, which has some."""
    rows = table[SOURCE_ROW].to_numpy()
    starts = _starts(rows)
    return SourceRowBorders.of(rows[starts].tolist(), starts)


def scattered(table: pa.Table) -> pa.Table:
    """Make the rows again of which `gathered` has made lists."""
    lists = [name for name in table.column_names if name != SOURCE_ROW]
    counts = _one_array(table[lists[0]]).value_lengths().to_numpy() if lists else np.ones(table.num_rows, np.int64)
    columns = {SOURCE_PATH if name == MEMBER_PATHS else name: _one_array(table[name]).flatten() for name in lists}
    return pa.table({SOURCE_ROW: np.repeat(table[SOURCE_ROW].to_numpy(), counts), **columns})


def first_values(table: pa.Table) -> pa.Table:
    """Return the first value of each list."""
    columns = {}
    for name in table.column_names:
        found = _one_array(table[name])
        columns[name] = found.values.take(found.offsets[:-1]) if pa.types.is_list(found.type) else found
    return pa.table(columns)


def null_where_one_is(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """Let a list of these columns be null if one of its values is."""
    for name in names:
        if name not in table.column_names or not pa.types.is_list(table.schema.field(name).type):
            continue
        lists = _one_array(table[name])
        nulls = np.concatenate([[0], np.cumsum(lists.values.is_null().to_numpy(zero_copy_only=False))])
        offsets = lists.offsets.to_numpy()
        has_null = nulls[offsets[1:]] > nulls[offsets[:-1]]
        if has_null.any():
            masked = pa.ListArray.from_arrays(lists.offsets, lists.values, mask=pa.array(has_null))
            table = table.set_column(table.column_names.index(name), name, masked)
    return table


def _lists_of(unfit: Sequence[UnfitValue], table: pa.Table) -> list[UnfitValue]:
    """Return the lists that values of these rows belong to, which do not fit: complete, by the place of their row."""
    starts = _starts(table[SOURCE_ROW].to_numpy()) if unfit else []
    lists: dict[tuple[int, str], UnfitValue] = {}
    for one in unfit:
        row = bisect_right(starts, one.place) - 1
        start, end = starts[row], [*starts, table.num_rows][row + 1]
        if (row, one.column) not in lists:
            lists[row, one.column] = one._replace(
                place=row, value=values_of(table[one.column].slice(start, end - start))
            )
        lists[row, one.column].value[one.place - start] = one.value
    return list(lists.values())


def _too_large(table: pa.Table) -> set[int]:
    rows = table[SOURCE_ROW].to_numpy()
    starts = _starts(rows)
    runs = zip(starts, [*starts[1:], len(rows)], strict=True)
    return {int(rows[at]) for at, end in runs if table.slice(at, end - at).nbytes > MAX_SOURCE_ROW_BYTES}


def _starts(rows: npt.NDArray[np.int64]) -> list[int]:
    """Return the places at which another source row begins."""
    if not rows.size:
        return []
    return [0, *(np.flatnonzero(np.diff(rows)) + 1).tolist()]


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return pa.concat_arrays(found.chunks) if isinstance(found, pa.ChunkedArray) else found
