"""The Python values of columns, for rows as dicts.

Arrow's own conversion is used for all but times. A time that `datetime` cannot hold, because it has nanoseconds, is
outside the years 1 to 9999 or is in an unknown time zone, raises there or loses digits. Then the values of that column
are numpy's: `datetime64` (in UTC where the column has a time zone) and `timedelta64`, for a time of day that since
midnight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from collections.abc import Iterator

_types = pa.types


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a table of carried types as dicts."""
    if not any(_has_times(field.type) for field in table.schema):
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows
    names = table.column_names
    columns = [values_of(column) for column in table.columns]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def values_of(column: pa.ChunkedArray | pa.Array) -> list[Any]:
    """Return the Python values of a column of a carried type; None for null."""
    kind = column.type
    if not _has_times(kind):
        plain: list[Any] = column.to_pylist()
        return plain
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return _nested(array) if _types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType) else _times(array)


def _has_times(kind: pa.DataType) -> bool:
    if isinstance(kind, pa.BaseExtensionType):
        return _has_times(kind.storage_type)
    if _types.is_nested(kind):
        return any(_has_times(kind.field(place).type) for place in range(kind.num_fields))
    return bool(_types.is_temporal(kind))


def _times(array: pa.Array) -> list[Any]:
    kind = array.type
    if getattr(kind, "unit", "") == "ns":
        micros = pc.divide(array.cast(pa.int64()), 1000)
        if not pc.all(pc.equal(pc.multiply(micros, 1000), array.cast(pa.int64()))).as_py():
            return _numpy_times(array)
        array = array.cast(_in_microseconds(kind))
    try:
        found: list[Any] = array.to_pylist()
    except (ValueError, OverflowError, KeyError):  # a KeyError is an unknown time zone
        return _numpy_times(array)
    return found


def _in_microseconds(kind: pa.DataType) -> pa.DataType:
    if _types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    return pa.duration("us") if _types.is_duration(kind) else pa.time64("us")


def _numpy_times(array: pa.Array) -> list[Any]:
    kind = array.type
    unit = "D" if _types.is_date32(kind) else getattr(kind, "unit", "ms")
    letter = "m" if _types.is_duration(kind) or _types.is_time(kind) else "M"
    number = pa.int32() if _types.is_date32(kind) or _types.is_time32(kind) else pa.int64()
    filled = pc.fill_null(array.cast(number), 0).to_numpy(zero_copy_only=False)
    values = list(filled.astype(np.int64).view(f"{letter}8[{unit}]"))
    return [value if is_valid else None for value, is_valid in zip(values, _valid(array), strict=True)]


def _nested(array: pa.Array) -> list[Any]:
    if isinstance(array.type, pa.BaseExtensionType):
        return values_of(array.storage)
    if _types.is_struct(array.type):
        return list(_structs(array))
    if _types.is_map(array.type):
        pair = pa.struct({"key": array.type.key_type, "value": array.type.item_type})
        maps = _nested(array.cast(pa.list_(pair)))
        return [None if one is None else [(entry["key"], entry["value"]) for entry in one] for one in maps]
    return list(_lists(array))


def _structs(array: pa.Array) -> Iterator[dict[str, Any] | None]:
    names = [field.name for field in array.type]
    children = [values_of(child) for child in array.flatten()]
    for is_valid, values in zip(_valid(array), zip(*children, strict=True), strict=True):
        yield dict(zip(names, values, strict=True)) if is_valid else None


def _lists(array: pa.Array) -> Iterator[list[Any] | None]:
    values = values_of(pc.list_flatten(array))
    start = 0
    for is_valid, length in zip(_valid(array), pc.list_value_length(array).to_pylist(), strict=True):
        if not is_valid:
            yield None
            continue
        yield values[start : start + length]
        start += length


def _valid(array: pa.Array) -> list[bool]:
    valid: list[bool] = array.is_valid().to_numpy(zero_copy_only=False).tolist()
    return valid
