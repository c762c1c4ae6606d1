"""A sample of a source that is like all of it, however the source is sorted, in an order of which any run is, too.

1. Rows are read at many places spread evenly over the source: a run of consecutive rows at each.
2. They are ranked by their bytes, and put into the order of the bit-reversed ranks (J. G. van der Corput, 1935): any
   run of that order has small and large rows in the proportions of all of them, so that a few hundred rows of it cost
   about what as many rows of the source cost on average.
3. That order hides whether neighbours in the source are of a size, as in sorted texts: a job then pads less than the
   sample does. So the sample also says how much of what rows differ by is between places.

Rejected: scaling the cost of a random sample by bytes (a ratio estimate). It needs the bytes of all rows of the source,
which only some formats know, and of compressed files none.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchmill.sources.base import InputSplit, RowCount

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from batchmill.sources.base import Source, Splitter

MAX_ROWS = 20_000
MAX_BYTES = 32 * 1024 * 1024
PLACES = 64
MIN_RUN = 4  # rows at a place that say whether they are alike
READ_S = 30.0  # of reading; the rest of the source is then left out, and its rows are estimated
_SKIP_BYTES = 2**50


@dataclass(frozen=True, slots=True)
class SourceSample:
    """Rows of a source.

    rows: of the source. unreadable: rows at these places that cannot be read. alike: see `alikeness`.
    """

    table: pa.Table
    rows: int
    is_exact: bool
    read: int
    unreadable: int
    is_complete: bool  # whether all of the source was passed
    alike: float


def read_sample(source: Source, row_bytes: float = 0.0) -> SourceSample:
    """Read a sample of a source. row_bytes: about how many a row has; 0: not known. Raises as `Source.read` does."""
    ends_at = time.monotonic() + READ_S
    known = source.count("").rows
    wanted = min(MAX_ROWS, int(MAX_BYTES / row_bytes) if row_bytes else MAX_ROWS)
    tables: list[pa.Table] = []
    passed = read = unreadable = nbytes = 0
    cursor, is_complete = "", True
    for split, is_read in _runs(source, known, max(wanted, 1)):
        cursor, passed = split.cursor, passed + split.rows
        if is_read:
            found = source.read_with_faults(split.slices)
            bad = np.array([one.place for one in found.bad], dtype=np.int64)
            good = np.setdiff1d(np.arange(found.table.num_rows), bad)
            tables.append(found.table.take(pa.array(good)))
            read += found.table.num_rows
            unreadable += len(bad)
            nbytes += tables[-1].nbytes
        if time.monotonic() > ends_at or nbytes > MAX_BYTES:
            is_complete = False
            break
    total = RowCount(passed, exact=True) if is_complete else source.count(cursor)
    table = pa.concat_tables(tables) if tables else source.schema.empty_table()
    sizes = row_sizes(table)
    chosen = table.take(pa.array(spread_order(sizes)))
    return SourceSample(chosen, total.rows, total.exact, read, unreadable, is_complete, alikeness(sizes))


def _runs(source: Source, known: int, wanted: int) -> Iterator[tuple[InputSplit, bool]]:
    """Yield one split of the source after another, and whether it is of a run that is read."""
    run = max(wanted // PLACES, 1) if known > wanted else wanted
    gap = max(known // PLACES - run, 0) if known > wanted else 0
    with source.splitter("") as splitter:
        yield from _skip(splitter, gap // 2)
        while True:
            left = run
            while left > 0:
                split = splitter.next_split(left, MAX_BYTES)
                if not isinstance(split, InputSplit):
                    return
                left -= split.rows
                yield split, True
            yield from _skip(splitter, gap)


def _skip(splitter: Splitter, rows: int) -> Iterator[tuple[InputSplit, bool]]:
    while rows > 0:
        split = splitter.next_split(rows, _SKIP_BYTES)
        if not isinstance(split, InputSplit):
            return
        rows -= split.rows
        yield split, False


def row_sizes(table: pa.Table) -> NDArray[np.int64]:
    """Return the bytes of the values of variable length in each row."""
    sizes = np.zeros(table.num_rows, dtype=np.int64)
    for column in table.columns:
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)  # the same values
        kind = column.type
        if any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary,
                                             pa.types.is_large_binary)):  # fmt: skip
            lengths = pc.binary_length(column)
        elif pa.types.is_list(kind) or pa.types.is_large_list(kind):
            lengths = pc.list_value_length(column)
        else:
            continue
        sizes += pc.fill_null(lengths, 0).to_numpy().astype(np.int64)
    return sizes


def alikeness(sizes: NDArray[np.int64]) -> float:
    """Return how much of the variance of the sizes' logarithms is between places: 1 of sorted rows, 0 of mixed ones.

    sizes: in the order of the source. Pure.
    """
    run = len(sizes) // PLACES
    logs = np.log1p(sizes[: run * PLACES].astype(np.float64))
    if run < MIN_RUN or logs.var() < 1e-12:
        return 0.0
    within = float(logs.reshape(PLACES, run).var(axis=1, ddof=1).mean())
    return float(max(1 - within / logs.var(ddof=1), 0.0))


def spread_order(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return an order of rows of these sizes, any run of which is like all of them. Pure."""
    count = len(sizes)
    if count < 2:
        return np.arange(count)
    bits = int(count - 1).bit_length()
    numbers = np.arange(1 << bits, dtype=np.int64)
    reversed_ = np.zeros_like(numbers)
    for bit in range(bits):
        reversed_ |= ((numbers >> bit) & 1) << (bits - 1 - bit)
    ranks = reversed_[reversed_ < count]
    order: NDArray[np.int64] = np.argsort(sizes, kind="stable")[ranks]
    return order
