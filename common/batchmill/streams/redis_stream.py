"""Streams of Redis and Valkey: read by id, without a consumer group.

The pending list of a group repeats and skips entries when consumers die or messages are claimed; the ledger has the
offsets anyway. The server counts the entries that were ever added; with the entries that are left, that says how many
are behind an offset, and how many were deleted before they were read.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

import redis

from batchmill.errors import StreamUnavailable
from batchmill.processes.collector import without_collections
from batchmill.redis_access.connections import unavailable
from batchmill.sources.base import RowsRead
from batchmill.streams.base import Fetched, Head, Message, StreamReader
from batchmill.streams.messages import (
    event_time_ms,
    parse_time_ms,
    rows_of,
    table_of_json,
    table_of_texts,
    with_lost,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import pyarrow as pa

    from batchmill.jobs.streams.source import RedisStream

BEGINNING = "0-0"
READ_AT_ONCE = 1000
PARTITION = ""
"""The only partition of a stream has no name."""


Entry = tuple[bytes, list[bytes]]
"""An entry as the server sends it: its id, and names and values in turns. A dict of each would cost as much again."""


class RedisStreamReader(StreamReader):
    """Reads one stream. key: with the tenant's prefix. types: given types of columns."""

    def __init__(self, client: redis.Redis, key: str, spec: RedisStream, types: Mapping[str, pa.DataType]) -> None:
        self._redis: Any = client  # replies are bytes here
        self._ranges: Any = redis.Redis(connection_pool=client.connection_pool)
        self._ranges.set_response_callback("XRANGE", lambda reply, **_: reply)
        self._key = key
        self._spec = spec
        self._types = types
        self._json_field = None if spec.json_field is None else spec.json_field.encode()

    def partitions(self) -> Sequence[str]:
        """See `StreamReader`."""
        return (PARTITION,)

    def head(self, partition: str, *, at_end: bool) -> Head:  # noqa: ARG002  # there is one
        """See `StreamReader`."""
        with source_errors(self._spec.title):
            about = read_info(self._redis, self._key)
        return Head(about.last, about.added) if at_end else Head(BEGINNING, about.added - about.length)

    def fetch(self, partition: str, after: Head, max_rows: int, max_bytes: int) -> Fetched | None:  # noqa: ARG002  # there is one
        """See `StreamReader`."""
        with source_errors(self._spec.title), without_collections():
            about = read_info(self._redis, self._key)
            if not is_behind(about.last, after.offset) or not about.length:
                return _all_lost(about, after)
            entries, nbytes = self._entries(after.offset, "+", max_rows, max_bytes)
        lost = lost_before(about, after)
        if not entries:
            return _all_lost(about, after) if max_rows > 0 and max_bytes > 0 else None
        last = entries[-1][0].decode()
        return Fetched(last, len(entries), nbytes, after.position + lost + len(entries), self._latest(entries), lost)

    def read(self, partition: str, after: str, last: str, rows: int) -> RowsRead:  # noqa: ARG002  # there is one
        """See `StreamReader`."""
        with source_errors(self._spec.title), without_collections():
            entries, _ = self._entries(after, last, rows, None)  # as they were planned, whatever their size
            table = self._table(entries)
        found = self._rows(entries) if table is None else RowsRead(table)
        return with_lost(found, rows - len(entries), self._spec.title)

    def lag(self, partition: str, after: Head) -> int:  # noqa: ARG002  # there is one
        """See `StreamReader`."""
        with source_errors(self._spec.title):
            about = read_info(self._redis, self._key)
        return max(min(about.added - after.position, about.length), 0) if is_behind(about.last, after.offset) else 0

    def wait(self, offsets: Mapping[str, str], timeout_s: float) -> bool:
        """See `StreamReader`."""
        with source_errors(self._spec.title):
            return wait_for_entry(self._redis, self._key, offsets[PARTITION], timeout_s)

    def settle(self, settled: Sequence[Mapping[str, str]]) -> None:
        """Delete the entries that no job needs."""
        if all(PARTITION in one for one in settled):
            with source_errors(self._spec.title):
                trim(self._redis, self._key, min((one[PARTITION] for one in settled), key=parse_id))

    def _entries(self, after: str, last: str, max_rows: int, max_bytes: int | None) -> tuple[list[Entry], int]:
        """Read entries as the server has them, and count their bytes if these are limited."""
        found: list[Entry] = []
        nbytes = 0
        while len(found) < max_rows and (max_bytes is None or nbytes < max_bytes):
            step = min(max_rows - len(found), READ_AT_ONCE)
            some: list[Entry] = self._ranges.xrange(self._key, f"({after}", last, count=step)
            fitting, more = (some, 0) if max_bytes is None else self._fitting(some, max_bytes - nbytes)
            found += fitting
            nbytes += more
            if len(some) < step:
                break
            after = some[-1][0].decode()
        return found, nbytes

    def _fitting(self, entries: list[Entry], max_bytes: int) -> tuple[list[Entry], int]:
        """Return the first entries up to the one that reaches `max_bytes`, and their bytes."""
        nbytes = 0
        for number, (_, fields) in enumerate(entries, 1):
            nbytes += self._size(fields)
            if nbytes >= max_bytes:
                return entries[:number], nbytes
        return entries, nbytes

    def _size(self, fields: list[bytes]) -> int:
        if self._json_field is not None:
            return len(_by_name(fields).get(self._json_field, b""))
        return sum(map(len, fields))

    def _latest(self, entries: Sequence[Entry]) -> int | None:
        """Return the highest event time; without a column for it, the arrival of the last entry: ids only rise."""
        column = self._spec.time
        if column is None:
            return parse_id(entries[-1][0].decode())[0]
        if self._json_field is not None:
            found = (event_time_ms(self._message(*one), column) for one in entries)
        else:
            name = column.encode()
            values = (_by_name(fields).get(name) for _, fields in entries)
            found = (parse_time_ms(_text(value)) for value in values if value is not None)
        return max((at for at in found if at is not None), default=None)

    def _table(self, entries: Sequence[Entry]) -> pa.Table | None:
        """Make a table of entries column by column; None if some differ in their fields, or anything is wrong."""
        columns = _columns_of(entries)
        if columns is None:
            return None
        if self._json_field is None:
            return table_of_texts(columns, self._types)
        lines = columns.get(self._json_field)
        return None if lines is None else table_of_json(lines, self._types)

    def _rows(self, entries: Sequence[Entry]) -> RowsRead:
        return rows_of([self._message(*one) for one in entries], self._types, self._spec.title)

    def _message(self, entry_id: bytes, fields: list[bytes]) -> Message:
        offset = entry_id.decode()
        at_ms = int(offset.partition("-")[0])
        if self._json_field is not None:
            return Message(offset, _by_name(fields).get(self._json_field, b""), at_ms)
        row = {_name(name): value.decode(errors="replace") for name, value in _by_name(fields).items()}
        return Message(offset, row, at_ms)


def _by_name(fields: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(fields[::2], fields[1::2], strict=True))


def _columns_of(entries: Sequence[Entry]) -> dict[bytes, list[bytes]] | None:
    """Return the values of each field, if all entries have the same fields in the same order, otherwise None."""
    if not entries:
        return None
    names, width = entries[0][1][::2], len(entries[0][1])
    if any(len(fields) != width for _, fields in entries):
        return None
    every = list(chain.from_iterable(fields for _, fields in entries))
    columns = {}
    for place, name in enumerate(names):
        if every[2 * place :: width].count(name) != len(entries):
            return None
        columns[name] = every[2 * place + 1 :: width]
    return columns if len(columns) == len(names) else None


class StreamInfo:
    """What the server knows of a stream. One that is not there is empty."""

    def __init__(self, found: Mapping[str, Any]) -> None:
        self.length: int = found.get("length", 0)
        self.added: int = found.get("entries-added", self.length)
        self.last = _text(found.get("last-generated-id", BEGINNING))
        first = found.get("first-entry")
        self.first = _text(first[0]) if first else None


def read_info(client: Any, key: str) -> StreamInfo:
    """Read what the server knows of a stream."""
    try:
        return StreamInfo(client.xinfo_stream(key))
    except redis.ResponseError as error:
        if "no such key" in str(error):
            return StreamInfo({})
        raise


def is_behind(offset: str, other: str) -> bool:
    """Return whether an id is behind another one."""
    return parse_id(offset) > parse_id(other)


def parse_id(offset: str) -> tuple[int, int]:
    """Parse the id of an entry: milliseconds and a number."""
    at_ms, _, number = offset.partition("-")
    return int(at_ms), int(number or 0)


def lost_before(about: StreamInfo, after: Head) -> int:
    """Return how many entries behind an offset were deleted: if any, they were the oldest, so all that are left are."""
    if about.first is None or not is_behind(about.first, after.offset):
        return 0
    return max(about.added - about.length - after.position, 0)


def _all_lost(about: StreamInfo, after: Head) -> Fetched | None:
    """Return that the entries behind an offset were deleted, none of which is left; None if there were none."""
    lost = about.added - after.position
    if lost <= 0 or not is_behind(about.last, after.offset):
        return None
    return Fetched(about.last, 0, 0, about.added, None, lost)


def wait_for_entry(client: Any, key: str, after: str, timeout_s: float) -> bool:
    """Wait until a stream has an entry behind an id; return whether it has."""
    return bool(client.xread({key: after}, count=1, block=max(int(timeout_s * 1000), 1)))


def trim(client: Any, key: str, settled: str) -> None:
    """Delete the entries up to an id, and that of it."""
    at_ms, number = parse_id(settled)
    client.xtrim(key, minid=f"{at_ms}-{number + 1}", approximate=False)


@contextmanager
def source_errors(title: str) -> Iterator[None]:
    """Raise Redis' errors as `StreamUnavailable`: the stream is away, and the same works later."""
    try:
        yield
    except redis.RedisError as error:
        known = unavailable(error)
        reason = str(error) if known is None else known.message
        raise StreamUnavailable(
            f"{title} cannot be read: {reason}",
            hint="Check that the server runs that BATCHMILL_STREAMS_URL names, and that the key is a stream.",
        ) from error


@lru_cache(maxsize=4096)
def _name(name: bytes) -> str:
    """Return the name of a field, which mostly all entries have."""
    return name.decode(errors="replace")


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
