"""The types of CSV values: what is taken for a number or a truth value, and nothing else is when it is read.

A parser of numbers accepts more than this service takes for a number: `007`, `0x1F`, ` 7 `, `+5`. If such values
became numbers, what a column holds would depend on whether they are at the beginning of a source. So a column is read
as text, and converted here; `narrowest` and `converted` have one rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from batchmill.sources.formats.records import places_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

INTEGER = r"^-?(0|[1-9][0-9]*)$"
_NUMBER = r"^-?((0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?|inf|nan|Inf|NaN)$"
_TRUTH = r"^(true|false|True|False|TRUE|FALSE)$"
_TRUTHS = pa.array(["true", "false", "True", "False", "TRUE", "FALSE"])
EXACT = 2**53
"""Integers up to this size are exact as double."""
HEAD_ROWS = 16


def narrowest(values: pa.ChunkedArray) -> pa.DataType:
    """Return the narrowest type that keeps what is written: bool, int64, double, or string; null without a value.

    values: text, null where there is no value.
    """
    values = values.drop_null()
    if not len(values):
        return pa.null()
    for kind in (pa.int64(), pa.float64(), pa.bool_()):
        try:
            converted(values.slice(0, HEAD_ROWS), kind)  # most columns of text are known by it
            converted(values, kind)
        except ValueError:
            continue
        if kind == pa.float64() and pc.all(pc.match_substring_regex(values, INTEGER)).as_py():
            return pa.string()  # integers beyond int64: as double, others like them would change
        return kind
    return pa.string()


def converted(values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Convert text to int64, double or bool. Raises `ValueError` for a value that is not written as one, or changes."""
    if pa.types.is_int64(kind):
        for chunk in values.chunks:
            _require(_unusual_numbers(chunk.drop_null(), integers=True), INTEGER)
        return values.cast(kind)
    if pa.types.is_float64(kind):
        for chunk in values.chunks:
            _require(_unusual_numbers(chunk.drop_null(), integers=False), _NUMBER)
        found = values.cast(kind)
        _require_exact(values, found)
        return found
    if not pc.all(pc.is_in(values, _TRUTHS, skip_nulls=False), min_count=0).as_py():
        _require(values.drop_null(), _TRUTH)
    return values.cast(kind)


def _require(values: pa.Array | pa.ChunkedArray, pattern: str) -> None:
    if not pc.all(pc.match_substring_regex(values, pattern), min_count=0).as_py():
        raise ValueError("a value is not written as its column's type")


def _require_exact(values: pa.ChunkedArray, found: pa.ChunkedArray) -> None:
    """Raise `ValueError` if an integer changes as double."""
    large = pc.and_(pc.greater_equal(pc.abs(found), float(EXACT)), pc.is_finite(found))
    if not pc.any(large, min_count=0).as_py():
        return
    written = values.filter(large)
    for text in written.filter(pc.match_substring_regex(written, INTEGER)).to_pylist():
        if int(float(text)) != int(text):
            raise ValueError(f"double cannot hold {text} exactly")


def _unusual_numbers(values: pa.Array, *, integers: bool) -> pa.Array:
    """Return at least those values that parse as numbers and are not plain ones, such as -12.5.

    That is cheaper than to match all of them. integers: only integers parse.
    """
    _, offsets_buffer, data_buffer = values.buffers()
    rows = len(values)
    if not rows or data_buffer is None:
        return values
    offsets = np.frombuffer(offsets_buffer, np.int32)[values.offset : values.offset + rows + 1].astype(np.intp)
    data = np.frombuffer(data_buffer, np.uint8)
    starts, stops = offsets[:-1], offsets[1:]
    if not len(data) or (starts == stops).any():
        return values
    points = offsets[0] + places_of(data[offsets[0] : offsets[-1]], ord("."))
    if not _are_digits(data.take(points + 1, mode="clip")).all():
        return values
    lead = starts + (data.take(starts) == ord("-"))
    first = data.take(lead, mode="clip")
    padded = (first == ord("0")) & (stops - lead > 1)
    if not integers and padded.any():
        padded &= _are_digits(data.take(lead + 1, mode="clip"))
    plain = _are_digits(first) & _are_digits(data.take(stops - 1)) & ~padded
    return values.slice(0, 0) if plain.all() else values.filter(pa.array(~plain))


def _are_digits(found: NDArray[np.uint8]) -> NDArray[np.bool_]:
    return (found - np.uint8(ord("0"))) < 10
