"""Which group of keys the rows of a round are of, and what the rows of other groups do to the clock of one.

The group of a key follows from its values alone, and is the same for values that are equal as keys, such as 1 and 1.0.
"""

from __future__ import annotations

import zlib
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import numpy as np
import pyarrow as pa

from batchmill_worker.windows.columns import values_as

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

_FACTOR = np.uint32(31)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NEVER = np.iinfo(np.int64).min


def rows_of_group(rows: pa.Table, by: Sequence[str], group: int, groups: int) -> npt.NDArray[np.int64]:
    """Return the places of the rows whose keys are of a group; each row is of one, also if it has no valid key."""
    found = np.zeros(rows.num_rows, dtype=np.uint32)
    for name in by:
        found *= _FACTOR  # modulo 2^32
        if name in rows.column_names:
            found += _checksums(rows[name])
    return np.flatnonzero(found % np.uint32(groups) == group)


def _checksums(column: pa.ChunkedArray) -> npt.NDArray[np.uint32]:
    """Return a checksum of each value of a column; 0 for null, and for what is no key."""
    if pa.types.is_null(column.type):
        return np.zeros(len(column), dtype=np.uint32)
    try:
        encoded = column.combine_chunks().dictionary_encode()
    except pa.ArrowNotImplementedError:  # lists, which are no keys, and texts of an extension type, which are
        return np.array([_checksum(value) for value in values_as(column, column.type)[0]], dtype=np.uint32)
    values, _, _ = values_as(encoded.dictionary, encoded.dictionary.type)
    sums = np.array([*map(_checksum, values), 0], dtype=np.uint32)
    found: npt.NDArray[np.uint32] = sums[encoded.indices.fill_null(len(values)).to_numpy(zero_copy_only=False)]
    return found


def _checksum(value: Any) -> int:
    match value:
        case str():
            return zlib.crc32(value.encode(errors="surrogatepass"))
        case bytes():
            return zlib.crc32(value)
        case int() | float() | Decimal():  # equal numbers have equal hashes; NaN has one of its object
            return 0 if value != value else zlib.crc32(b"%d" % hash(value))
        case datetime():
            moment = value if value.tzinfo else value.replace(tzinfo=UTC)
            return zlib.crc32(b"%d" % ((moment - _EPOCH) // _MICROSECOND))
        case date() | time():
            return zlib.crc32(value.isoformat().encode())
        case timedelta():
            return zlib.crc32(b"%d" % (value // _MICROSECOND))
        case UUID():
            return zlib.crc32(value.bytes)
        case _:
            return 0


class PassingRows:
    """The rows of a round that are none of a group: how many there are before each of its own, and their times.

    times: of all rows; None for one without. partitions: of all rows; None if there is only one.
    """

    def __init__(self, times: Sequence[int | None], partitions: Sequence[str] | None) -> None:
        self._times = times
        self._partitions = partitions
        self._next = 0  # the first row that has not been asked for
        self._highest: list[int] = []
        if partitions is None:  # of one clock, only the highest time up to a row counts
            filled = np.array([_NEVER if at is None else at for at in times], dtype=np.int64)
            self._highest = np.maximum.accumulate(filled).tolist() if len(times) else []

    def until(self, place: int) -> tuple[int, list[tuple[str, int]]]:
        """Return how many rows are between the one asked for before and this one, and how they move the clocks."""
        first, self._next = self._next, place + 1
        if first >= place:
            return 0, []
        if self._partitions is None:
            at = self._highest[place - 1]
            return place - first, [("", at)] if at != _NEVER else []
        names, times = self._partitions[first:place], self._times[first:place]
        return place - first, [(name, at) for name, at in zip(names, times, strict=True) if at is not None]
