"""Columns of vectors as matrices, and why rows of them cannot be compared."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchmill.errors import InvalidRows

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Matrix:
    """The vectors of some rows. places: which rows of the column they are of. faults: of the other rows."""

    values: npt.NDArray[np.float32]  # (rows, dimension)
    places: npt.NDArray[np.int64]
    faults: dict[int, str] = field(default_factory=dict)

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return int(self.values.shape[1])


def matrix_of(column: pa.ChunkedArray, name: str, *, has_direction: bool, dimension: int | None = None) -> Matrix:
    """Return the vectors of a column.

    dimension: the length of vectors; None: that of the first one. has_direction: whether vectors of zeros are faults.
    Raises `InvalidRows` for a column of anything else than lists of numbers.
    """
    lists = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if not _is_list(lists.type) or not _is_number(lists.type.value_type):
        raise InvalidRows(
            f"the column {name!r} is {column.type}, expected vectors: lists of numbers of one length.", column=name
        )
    numbers = lists.flatten().cast(pa.float32(), safe=False)
    flat = np.asarray(pc.fill_null(numbers, np.nan).to_numpy(zero_copy_only=False), dtype=np.float32)
    lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), -1).to_numpy(zero_copy_only=False), dtype=np.int64)
    size = dimension or int(next(iter(lengths[lengths > 0]), 0))
    fits = (lengths == size) & (size > 0)
    if fits.all():
        values = flat.reshape(len(lists), size)
    else:
        values = flat[np.repeat(fits, np.maximum(lengths, 0))].reshape(-1, size or 1)
    places = np.flatnonzero(fits)
    faults = {int(place): _wrong_length(int(lengths[place]), size) for place in np.flatnonzero(~fits)}
    usable = np.isfinite(values).all(axis=1)
    faults |= dict.fromkeys(places[~usable].tolist(), "its vector has a number that is not finite")
    if has_direction:
        zero = usable & ~values.any(axis=1)
        faults |= dict.fromkeys(places[zero].tolist(), "its vector has no direction: all of its numbers are 0")
        usable &= ~zero
    if not usable.all():
        values, places = values[usable], places[usable]
    return Matrix(np.require(values, requirements=["C", "W"]), places, faults)


def _wrong_length(length: int, expected: int) -> str:
    if length < 0:
        return "it has no vector"
    return f"its vector has {length} numbers, expected {expected or 'one or more'}"


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind))
