"""The state of a stage with windows as bytes: JSON, compressed. Values that JSON lacks are marked with their type."""

from __future__ import annotations

import base64
import json
import zlib
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from batchmill.columns import decode_schema, encode_schema
from batchmill.errors import DamagedData, InvalidRows
from batchmill.processes.collector import without_collections
from batchmill_worker.windows.rules import WindowKind
from batchmill_worker.windows.state import OpenWindow, PartitionClock, WindowState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

    from batchmill_worker.windows.rules import WindowRule

VERSION = 1
MAX_KEPT_TEXT = 512
"""Characters of a window as JSON, at most, that are kept beside it: of one that collects rows they may be many."""

_MARK = "__batchmill_type__"
_READERS: dict[str, Callable[[Any], Any]] = {
    "bytes": base64.b64decode,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda text: timedelta(microseconds=int(text)),
    "decimal": Decimal,
    "fields": dict,
}


def encode_state(state: WindowState, schema: pa.Schema) -> bytes:
    """Write a state. schema: of the columns that it has values of.

    Raises `InvalidRows` for a value of a type that cannot be kept.
    """
    has_mark = _has_mark(schema)
    clocks = _escaped({name: [one.highest, one.seen_ms] for name, one in state.clocks.items()})
    numbers = [state.watermark, state.rows_seen, state.firings, state.opened]
    head = _ENCODER.encode([VERSION, encode_schema(schema), numbers, clocks]).removesuffix("]")
    windows = ",".join(_text_of(one, has_mark=has_mark) for of_key in state.windows.values() for one in of_key)
    return zlib.compress(f"{head},[{windows}]]".encode(), 1)


def _text_of(window: OpenWindow, *, has_mark: bool) -> str:
    """Return a window as JSON; most have not changed since the last state, and are not written again."""
    if window.text:
        return window.text
    times = window.start, window.end, window.number, window.id
    counts = window.rows, window.nbytes, window.firings, int(window.has_new_rows)
    written = [window.key, *times, window.sums, *counts]
    text = _ENCODER.encode(_escaped(written) if has_mark else written)
    if len(text) <= MAX_KEPT_TEXT:
        window.text = text
    return text


def decode_state(data: bytes, rule: WindowRule) -> tuple[WindowState, pa.Schema]:
    """Read a state, and the schema that was written with it. Raises `DamagedData` for anything else."""
    try:
        text = zlib.decompress(data).decode()
        (version, columns, numbers, clocks), place = _head_of(text)
        if version != VERSION:
            raise ValueError(f"version {version}")
        watermark, rows_seen, firings, opened = numbers
        state = WindowState(watermark=watermark, rows_seen=rows_seen, firings=firings)
        for name, one in clocks.items():
            state.add_clock(name, PartitionClock(*one))
        with without_collections():
            for window in _windows_in(text, place):
                state.open(window)
                if rule.kind is not WindowKind.COUNT:
                    has_waited = window.firings and not window.has_new_rows
                    state.look_at(window, window.end + rule.late_ms if has_waited else window.end)
        state.opened = opened
        schema = decode_schema(columns)
    except (ValueError, TypeError, KeyError, zlib.error) as error:
        raise DamagedData(f"the state of windows cannot be read: {error}") from error
    return state, schema


def _head_of(text: str) -> tuple[list[Any], int]:
    """Return what is before the windows, and where these begin."""
    head, place = [], 0
    for _ in range(4):
        value, place = _DECODER.raw_decode(text, place + 1)
        head.append(value)
    if not text.startswith(",[", place) or not text.endswith("]]"):
        raise ValueError("it has no windows")
    return head, place + 2


def _windows_in(text: str, place: int) -> Iterator[OpenWindow]:
    """Yield the windows from a place on, each with its text: most will be written again as they are."""
    last = len(text) - len("]]")
    while place < last:
        begin = place
        values, place = _DECODER.raw_decode(text, begin)
        key, start, end, number, own_id, sums, rows, nbytes, fired, has_new_rows = values
        own = text[begin:place] if place - begin <= MAX_KEPT_TEXT else ""
        counts = (rows, nbytes, fired, bool(has_new_rows))
        yield OpenWindow(tuple(key), start, end, number, own_id, sums, *counts, text=own)
        place += 1


def _marked(value: Any) -> dict[str, str]:
    match value:
        case bytes():
            return {_MARK: "bytes", "value": base64.b64encode(value).decode()}
        case datetime():
            return {_MARK: "datetime", "value": value.isoformat()}
        case date():
            return {_MARK: "date", "value": value.isoformat()}
        case time():
            return {_MARK: "time", "value": value.isoformat()}
        case timedelta():
            return {_MARK: "timedelta", "value": str(value // timedelta(microseconds=1))}
        case Decimal():
            return {_MARK: "decimal", "value": str(value)}
    raise InvalidRows(
        f"a window cannot keep a value of the type {type(value).__name__}.",
        hint="Convert the column in a stage before, or leave it out of the aggregates.",
    )


_ENCODER = json.JSONEncoder(separators=(",", ":"), default=_marked)


def _has_mark(schema: pa.Schema) -> bool:
    return _MARK in str(schema)  # the names of fields at any depth


def _escaped(value: Any) -> Any:
    """Write values of the user that have the field of a mark so that they are read as they were."""
    if isinstance(value, dict):
        fields = {name: _escaped(inner) for name, inner in value.items()}
        return {_MARK: "fields", "value": list(fields.items())} if _MARK in fields else fields
    return [_escaped(inner) for inner in value] if isinstance(value, list | tuple) else value


def _read(found: dict[str, Any]) -> Any:
    if found.keys() == {_MARK, "value"}:
        return _READERS[found[_MARK]](found["value"])
    return found


_DECODER = json.JSONDecoder(object_hook=_read)
