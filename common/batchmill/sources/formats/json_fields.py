"""The fields of JSON objects as they are written, for what a typed parser cannot do."""

from __future__ import annotations

import json
from json import decoder
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

_SPACE = " \t\r\n"


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_VALUES = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=_refuse_constant)


class TwiceError(ValueError):
    """An object has two fields of one name."""


def written_fields(line: str) -> dict[str, str]:
    """Return the fields of the object in a line, each as it is written. Raises `ValueError` for what is none."""
    fields: dict[str, str] = {}
    place = _behind(line, 0, "{")
    while line[place : place + 1] != "}":
        if fields:
            place = _behind(line, place, ",")
        name, place = decoder.scanstring(line, _behind(line, place, '"'), True)  # type: ignore[attr-defined]  # untyped
        start = _behind(line, place, ":")
        _, place = _VALUES.raw_decode(line, start)
        if name in fields:
            raise TwiceError(f"the field {name!r} is there twice")
        fields[name] = line[start:place]
        place = _skip(line, place)
    if _skip(line, place + 1) < len(line):
        raise ValueError("text follows the object")
    return fields


def _behind(line: str, place: int, mark: str) -> int:
    """Return the place behind a mark and blanks; a quote is behind its blanks."""
    place = _skip(line, place)
    if line[place : place + 1] != mark:
        raise ValueError(f"expected {mark!r} at character {place + 1}")
    return place + 1 if mark == '"' else _skip(line, place + 1)


def _skip(line: str, place: int) -> int:
    while line[place : place + 1] and line[place] in _SPACE:
        place += 1
    return place


def rewritten(
    data: pa.Buffer, *, keep: Collection[str] | None, as_text: Collection[str], scalars_as_text: Collection[str]
) -> pa.Buffer:
    """Rewrite each object: only the fields `keep`, some as JSON text, of some what is a number or a truth as text.

    A field that is left out stays as null, so that its name is known. Raises `ValueError` for a line that is none.
    """
    lines = data.to_pybytes().decode().split("\n")
    return pa.py_buffer("\n".join(_rewrite(line, keep, as_text, scalars_as_text) for line in lines).encode())


def _rewrite(
    line: str, keep: Collection[str] | None, as_text: Collection[str], scalars_as_text: Collection[str]
) -> str:
    if not line.strip(_SPACE):
        return line
    parts = []
    for name, text in written_fields(line).items():
        if keep is not None and name not in keep:
            text = "null"
        elif text != "null" and (name in as_text or (name in scalars_as_text and text[0] not in '"[{')):
            text = json.dumps(text)
        parts.append(f"{json.dumps(name)}:{text}")
    return "{" + ",".join(parts) + "}"


def objects(data: pa.Buffer) -> Iterator[dict[str, Any]]:
    """Yield the objects of these lines, integers exact."""
    for line in data.to_pybytes().split(b"\n"):
        if line.strip():
            yield json.loads(line)


def wide_integers(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield where in a value integers beyond int64 are; the elements of a list are at `[]`."""
    if isinstance(value, bool):
        return
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            yield path
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from wide_integers(item, (*path, name))
    elif isinstance(value, list):
        for item in value:
            yield from wide_integers(item, (*path, "[]"))


def inexact_column(row: Mapping[str, Any], schema: pa.Schema) -> tuple[str, int] | None:
    """Return the first column of a row with an integer that is read as double and changes, and that number."""
    for name, value in row.items():
        if name in schema.names and (number := _inexact(value, schema.field(name).type)) is not None:
            return name, number
    return None


def _inexact(value: Any, kind: pa.DataType) -> int | None:
    if isinstance(value, int) and pa.types.is_float64(kind):
        return None if int(float(value)) == value else value
    items: list[tuple[Any, pa.DataType]] = []
    if isinstance(value, dict) and pa.types.is_struct(kind):
        items = [(value[field.name], field.type) for field in kind if field.name in value]
    elif isinstance(value, list) and pa.types.is_list(kind):
        items = [(item, kind.value_type) for item in value]
    return next((found for item, of in items if (found := _inexact(item, of)) is not None), None)


def replaced(kind: pa.DataType, path: tuple[str, ...], leaf: pa.DataType) -> pa.DataType:
    """Return a type with another one at a path as `wide_integers` yields them."""
    if not path:
        return leaf
    if pa.types.is_struct(kind):
        return pa.struct([f.with_type(replaced(f.type, path[1:], leaf)) if f.name == path[0] else f for f in kind])
    return pa.list_(replaced(kind.value_type, path[1:], leaf)) if pa.types.is_list(kind) else kind
