"""Arrow arrays made from Python values.

Arrow's own conversion changes some values without an error: in a column of times it drops the time zone of those that
have one, if the first has none; a time among dates loses its hours; text among bytes becomes bytes, in lists bytes
become text; nanoseconds are cut. Such a mixture is refused here instead, at any depth.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

import pyarrow as pa

_types = pa.types
_BYTES = (bytes, bytearray, memoryview)


class MixedValuesError(TypeError):
    """A column has values that no type holds unchanged; the message names both kinds."""


def array_of(values: Sequence[Any]) -> pa.Array:
    """Convert Python values to an array of the type that holds them all unchanged; None is null.

    Integers beyond int64 are uint64, times with nanoseconds have that unit. Raises `MixedValuesError`, and for values
    without a common type what `pyarrow.array` raises: `ArrowException`, `OverflowError`, `TypeError` or `ValueError`.
    """
    try:
        array = pa.array(values)
    except OverflowError:
        if set(map(type, values)) <= {int, type(None)}:
            return pa.array(values, pa.uint64())
        raise
    if _has_nanoseconds(values, array.type):
        array = pa.array(values, _in_nanoseconds(array.type))
    check_unchanged(values, array.type)
    return array


def array_as(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Convert Python values to an array of a type that is given; None is null. Fields that the type lacks are left out.

    Raises as `array_of`, also for numbers with a fraction where the type has none: Arrow would cut them.
    """
    array = pa.array(values, kind)
    if any(map(_is_cut, values, array.to_pylist())):
        raise MixedValuesError(f"numbers with a fraction, which is no {kind}")
    return array


def _is_cut(value: Any, made: Any) -> bool:
    if isinstance(value, float):
        return not isinstance(made, float) and not value.is_integer()
    if isinstance(value, Mapping):
        return isinstance(made, Mapping) and any(_is_cut(value.get(name), inner) for name, inner in made.items())
    return isinstance(value, list | tuple) and isinstance(made, list) and any(map(_is_cut, value, made))


def check_unchanged(values: Iterable[Any], kind: pa.DataType) -> None:
    """Raise `MixedValuesError` if Arrow would change some values to make an array of them."""
    if not _can_change(kind):
        return
    present = [value for value in values if value is not None]
    if _types.is_struct(kind):
        for field in kind:
            check_unchanged([value.get(field.name) for value in present if isinstance(value, Mapping)], field.type)
    elif _types.is_nested(kind):
        check_unchanged(chain.from_iterable(present), kind.value_type)
    else:
        mixture = _mixture(present, kind)
        if mixture:
            raise MixedValuesError(mixture)


def _can_change(kind: pa.DataType) -> bool:
    """Whether values in it can be of several kinds. Maps, which are made only of a type that is given, are left out."""
    if isinstance(kind, pa.BaseExtensionType) or _types.is_map(kind):
        return False
    if _types.is_nested(kind):
        return any(_can_change(kind.field(place).type) for place in range(kind.num_fields))
    return bool(_types.is_temporal(kind) or _types.is_binary(kind) or _types.is_string(kind))


def _mixture(present: Collection[Any], kind: pa.DataType) -> str:
    """Name the kinds of values where they differ; "" where they do not."""
    found = set(map(type, present))
    if not _types.is_temporal(kind):
        has_text = any(issubclass(one, str) for one in found)
        return "text and bytes" if has_text and any(issubclass(one, _BYTES) for one in found) else ""
    if _types.is_date(kind):
        return "dates and times" if any(issubclass(one, datetime) for one in found) else ""
    zones = {getattr(value, "tzinfo", None) is not None for value in present}
    if _types.is_time(kind):
        return "a time of day with a time zone" if True in zones else ""
    if _types.is_timestamp(kind) and len(zones) > 1:
        return "times with and without a time zone"
    return "a time with nanoseconds in a list or dict" if _has_nanoseconds(present, kind) else ""


def _has_nanoseconds(values: Iterable[Any], kind: pa.DataType) -> bool:
    """Whether Arrow cut some nanoseconds, which only the times of pandas have."""
    if not (_types.is_timestamp(kind) or _types.is_duration(kind)) or kind.unit == "ns":
        return False
    name = "nanosecond" if _types.is_timestamp(kind) else "nanoseconds"
    return any(getattr(value, name, 0) for value in values)


def _in_nanoseconds(kind: pa.DataType) -> pa.DataType:
    return pa.timestamp("ns", kind.tz) if _types.is_timestamp(kind) else pa.duration("ns")
