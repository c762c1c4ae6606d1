"""Reads record batches of Arrow IPC streams by number, with the memory of one batch.

A stream is a row of messages: the schema, then dictionaries and record batches, then a mark of its end. The header of
each says how long it is, so that the batches are found without reading them. To read one, a stream is made of the
schema, the dictionaries that were valid there, and the batch. See "IPC Streaming Format" and `Message.fbs` in the
Arrow columnar format's specification.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from batchmill.sources.columnar.flat_table import FlatTable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_CONTINUATION = b"\xff\xff\xff\xff"  # before a header's length, since format version 5
_END = _CONTINUATION + b"\0\0\0\0"
_READ_BYTES = 16 * 1024  # at once: most headers are shorter
_MAX_HEADER_BYTES = 64 * 1024 * 1024
_SCHEMA, _DICTIONARY, _BATCH = 1, 2, 3  # kinds of messages
_MESSAGE_KIND, _MESSAGE_HEADER, _MESSAGE_BODY = 1, 2, 3  # numbers of fields in their tables
_BATCH_LENGTH, _BATCH_COMPRESSION = 0, 3
_DICTIONARY_ID, _DICTIONARY_IS_DELTA = 0, 2


@dataclass(frozen=True, slots=True)
class _Message:
    """A message of a stream, and what its header says of it."""

    kind: int
    start: int  # offset in the file
    size: int  # with its header and body
    rows: int = 0
    is_compressed: bool = False
    dictionary: int = 0  # the number of the dictionary that it replaces or continues
    is_delta: bool = False


@dataclass(frozen=True, slots=True)
class StreamIndex:
    """The record batches of a stream, and what it takes to read each."""

    rows: tuple[int, ...]
    bytes: tuple[int, ...]
    is_compressed: bool  # whether any is compressed
    schema: pa.Schema
    first: _Message
    batches: tuple[_Message, ...]
    dictionaries: tuple[tuple[int, _Message], ...]  # each with the number of batches before it

    def ends(self) -> NDArray[np.int64]:
        """Return the rows of the file up to and with each batch."""
        return np.cumsum(self.rows, dtype=np.int64)

    def needed(self, batch: int) -> list[_Message]:
        """Return the messages that a batch needs before it: the schema, and dictionaries not replaced by then."""
        valid: list[_Message] = []
        for before, message in self.dictionaries:
            if before > batch:
                break
            if not message.is_delta:
                valid = [one for one in valid if one.dictionary != message.dictionary]
            valid.append(message)
        return [self.first, *valid]


class StreamReader:
    """Reads batches of a stream, and of each only some columns. is_mapped: the file is mapped into memory."""

    def __init__(self, file: Any, index: StreamIndex, columns: Sequence[str], *, is_mapped: bool) -> None:
        names = index.schema.names
        self._file = file
        self._index = index
        self._is_mapped = is_mapped and not index.dictionaries
        self._fields = [names.index(name) for name in columns if name in names]
        kept = [field for place, field in enumerate(index.schema) if self._is_mapped or place in self._fields]
        self.schema = pa.schema(kept, index.schema.metadata)

    def get_batch(self, number: int) -> pa.RecordBatch:
        """Read a batch. Raises `pa.ArrowInvalid` for a damaged one."""
        batch = self._index.batches[number]
        if self._is_mapped:
            message = pa.ipc.read_message(self._file.get_stream(batch.start, batch.size))
            return pa.ipc.read_record_batch(message, self._index.schema)
        parts = [self._read(one) for one in (*self._index.needed(number), batch)]
        options = pa.ipc.IpcReadOptions(included_fields=self._fields)
        with pa.ipc.open_stream(pa.py_buffer(b"".join([*parts, _END])), options=options) as stream:
            return stream.read_next_batch()

    def _read(self, message: _Message) -> Any:
        return memoryview(self._file.read_at(message.size, message.start))


def read_stream_index(file: Any) -> StreamIndex:
    """Read the index of an Arrow IPC stream. Raises `pa.ArrowInvalid` for what is no stream, or not one to its end."""
    messages: list[_Message] = []
    place, size = 0, file.size()
    try:
        while (message := _look_at_message(file, place, size)) is not None:
            messages.append(message)
            place += message.size
            if messages[0].kind != _SCHEMA:
                break
    except (struct.error, IndexError) as error:
        if not messages:
            raise pa.ArrowInvalid("it is neither an Arrow IPC file nor a stream") from error
        raise pa.ArrowInvalid(f"the Arrow stream is damaged or cut short behind byte {place:,} ({error})") from error
    if not messages or messages[0].kind != _SCHEMA:
        raise pa.ArrowInvalid("it is neither an Arrow IPC file nor a stream")
    batches: list[_Message] = []
    dictionaries: list[tuple[int, _Message]] = []
    for message in messages[1:]:
        if message.kind == _BATCH:
            batches.append(message)
        else:
            dictionaries.append((len(batches), message))
    first = file.read_at(messages[0].size, messages[0].start)
    return StreamIndex(
        tuple(one.rows for one in batches),
        tuple(one.size for one in batches),
        any(one.is_compressed for one in batches),
        pa.ipc.open_stream(pa.py_buffer(first + _END)).schema,
        messages[0],
        tuple(batches),
        tuple(dictionaries),
    )


def _look_at_message(file: Any, place: int, size: int) -> _Message | None:
    """Read the header of a message; None for the mark of the end, with nothing behind it."""
    data = file.read_at(min(_READ_BYTES, size - place), place)
    skip = 8 if data[:4] == _CONTINUATION else 4
    if len(data) < skip:
        raise IndexError("there is no mark of its end")
    (length,) = struct.unpack_from("<I", data, skip - 4)
    if length == 0:
        if place + skip < size:
            raise IndexError(f"{size - place - skip:,} bytes follow its end")
        return None
    if length > min(_MAX_HEADER_BYTES, size - place - skip):
        raise IndexError("a header is longer than the rest")
    header = data[skip : skip + length]
    if len(header) < length:
        header = file.read_at(length, place + skip)
    table = FlatTable.root(header)
    body = table.number(_MESSAGE_BODY)
    if not 0 <= body <= size - place - skip - length:
        raise IndexError("a message is longer than the rest")
    return _message(table, place, skip + length + body)


def _message(table: FlatTable, start: int, size: int) -> _Message:
    kind, content = table.number(_MESSAGE_KIND, "<B"), table.table(_MESSAGE_HEADER)
    if content is None or kind not in (_SCHEMA, _DICTIONARY, _BATCH):
        raise IndexError(f"a message of the unknown kind {kind}")
    if kind == _SCHEMA:
        if start:
            raise IndexError("a second schema")
        return _Message(kind, start, size)
    if kind == _BATCH:
        rows = content.number(_BATCH_LENGTH)
        if rows < 0:
            raise IndexError(f"a batch of {rows} rows")
        return _Message(kind, start, size, rows, content.table(_BATCH_COMPRESSION) is not None)
    number, is_delta = content.number(_DICTIONARY_ID), content.number(_DICTIONARY_IS_DELTA, "<B") != 0
    return _Message(kind, start, size, dictionary=number, is_delta=is_delta)
