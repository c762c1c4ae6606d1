"""Arrow types by name, as users write them: `int64`, `timestamp[us, tz=UTC]`, `decimal128(10, 2)`, `list<string>`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.errors import InvalidSource

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SIMPLE = re.compile(
    r"(u?int(8|16|32|64)|float|float32|double|float64|bool|boolean|string|utf8|large_string|binary|date32|date64"
    r"|time32\[(s|ms)\]|time64\[(us|ns)\])"
)
_TIMESTAMP = re.compile(r"timestamp\[(s|ms|us|ns)(?:, ?tz=([A-Za-z0-9_+:/-]+))?\]")
_DECIMAL = re.compile(r"decimal(128|256)\((\d+), ?(-?\d+)\)")
_NESTED = re.compile(r"(list|struct)<(.+)>", re.DOTALL)
_LONG_NAMES = {"float32": "float", "float64": "double", "boolean": "bool", "utf8": "string", "date32": "date32[day]"}


def types_of(names: Mapping[str, str] | None) -> dict[str, pa.DataType]:
    """Parse the type that a user gives each column. Raises `InvalidSource` naming the column and what is known."""
    types = {}
    for column, name in (names or {}).items():
        try:
            types[column] = parse_type(name)
        except (ValueError, RecursionError):
            raise InvalidSource(
                f"schema: expected an Arrow type for the column {column!r}, got {name[:80]!r}.",
                hint="Known: bool, int8 to int64, uint8 to uint64, float, double, string, large_string, binary, "
                "date32, time64[us], timestamp[us, tz=UTC], decimal128(10, 2), list<T>, struct<name: T, …>.",
                column=column,
            ) from None
    return types


def parse_type(name: str) -> pa.DataType:
    """Return the type of this name. Raises `ValueError` for one that is not known."""
    name = name.strip()
    if _SIMPLE.fullmatch(name):
        return pa.type_for_alias(_LONG_NAMES.get(name, name))
    if found := _TIMESTAMP.fullmatch(name):
        return pa.timestamp(found[1], found[2])
    if found := _DECIMAL.fullmatch(name):
        make = pa.decimal128 if found[1] == "128" else pa.decimal256
        return make(int(found[2]), int(found[3]))
    found = _NESTED.fullmatch(name)
    if found is None:
        raise ValueError(name)
    if found[1] == "list":
        return pa.list_(parse_type(found[2].removeprefix("item:")))
    return pa.struct([_field(part) for part in _parts(found[2])])


def _field(text: str) -> pa.Field:
    name, colon, kind = text.partition(":")
    if not colon or not name.strip():
        raise ValueError(text)
    return pa.field(name.strip(), parse_type(kind))


def _parts(text: str) -> Iterator[str]:
    """Split at the commas that are not inside brackets."""
    depth = start = 0
    for place, char in enumerate(text):
        depth += (char in "<[(") - (char in ">])")
        if char == "," and depth == 0:
            yield text[start:place]
            start = place + 1
    yield text[start:]
