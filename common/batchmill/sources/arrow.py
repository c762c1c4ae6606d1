"""Reads rows of Arrow IPC files by number.

pyarrow reports how many rows a record batch has only once it has read it. `read_index` takes that from the batches'
own headers instead: the footer names where they are, each is a FlatBuffers table of a few hundred bytes.
See "IPC File Format" and `Message.fbs` in the Arrow columnar format's specification.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from batchmill.caches import Lru
from batchmill.sources.columnar import GroupReader, Groups
from batchmill.sources.opening import MAX_OPEN_FILES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from batchmill.sources.opening import SourceFiles

MAX_COPIED_BYTES = 64 * 1024 * 1024
"""A record batch up to this size is read into memory: a mapped one that is cut short meanwhile ends the process.

Many shards read from a larger one, and each would read all of it.
"""
_TRAILER = struct.Struct("<i6s")  # the footer's length, the magic word
_MAGIC = b"ARROW1"
_BLOCK = struct.Struct("<qi4xq")  # offset, length of the header, length of the body
_CONTINUATION = b"\xff\xff\xff\xff"  # before the header's length, since format version 5
_FOOTER_BATCHES = 3  # numbers of fields in their tables
_MESSAGE_HEADER = 2
_BATCH_LENGTH = 0
_BATCH_COMPRESSION = 3


@dataclass(frozen=True, slots=True)
class Index:
    """The record batches of a file."""

    rows: tuple[int, ...]
    bytes: tuple[int, ...]
    is_compressed: bool  # whether any is compressed

    def ends(self) -> NDArray[np.int64]:
        """Return the rows of the file up to and with each batch."""
        return np.cumsum(self.rows, dtype=np.int64)


class ArrowReader(GroupReader):
    """Reads record batches into memory.

    Of large uncompressed ones on a local disk only the rows that are used are read, as the mapped file.
    """

    def __init__(self, files: SourceFiles, columns: list[str]) -> None:
        self._files = files
        self._columns = columns
        self._indexes: Lru[int, Index] = Lru(MAX_OPEN_FILES)

    def groups(self, index: int) -> Groups:
        """Read where the file's record batches end, and their stored bytes."""
        batches = read_index(self._files.open(index))
        return Groups.of(batches.rows, batches.bytes)

    def read(self, index: int, start: int, stop: int) -> pa.Table:
        """Read the batches that have these rows, sliced to them."""
        file = self._files.open(index)
        batches = self._indexes.get_or_make(index, lambda: read_index(file))
        ends = batches.ends()
        first, last = np.searchsorted(ends, [start, stop - 1], side="right").tolist()
        is_large = max(batches.bytes[first : last + 1], default=0) > MAX_COPIED_BYTES
        if is_large and not batches.is_compressed and self._files.locate(index).is_local:
            reader = pa.ipc.open_file(self._files.open(index, mapped=True))
        else:
            reader = self._open_columns(file)
        found = [reader.get_batch(number) for number in range(first, min(last + 1, len(ends)))]
        for batch in found:
            batch.validate(full=True)  # what another program wrote must not make this one read past a buffer
        before = int(ends[first - 1]) if first else 0
        return pa.Table.from_batches(found, reader.schema).slice(start - before, stop - start)

    def _open_columns(self, file: Any) -> Any:
        """Open a reader that copies, or decompresses, only the source's columns."""
        names = pa.ipc.open_file(file).schema.names
        fields = [names.index(name) for name in self._columns if name in names]
        return pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=fields))


def read_index(file: Any) -> Index:
    """Read the index of an Arrow IPC file. Raises `pa.ArrowInvalid` for a damaged one."""
    pa.ipc.open_file(file)  # refuses files that are not Arrow's, with a better message
    try:
        batches = [_look_at_batch(file, *block) for block in _blocks(file)]
    except (struct.error, IndexError) as error:
        raise pa.ArrowInvalid(f"a record batch of the Arrow file is damaged ({error})") from error
    rows, sizes, compressed = zip(*batches, strict=True) if batches else ((), (), ())
    return Index(rows, sizes, any(compressed))


def _blocks(file: Any) -> list[tuple[int, int, int]]:
    """Offset, header length and body length of each record batch."""
    end = file.size() - _TRAILER.size
    length, magic = _TRAILER.unpack(file.read_at(_TRAILER.size, end))
    if magic != _MAGIC:
        raise IndexError("no footer")
    footer = _Table.root(file.read_at(length, end - length))
    start = footer.vector(_FOOTER_BATCHES)
    if start is None:
        return []
    (count,) = struct.unpack_from("<I", footer.data, start)
    return [_BLOCK.unpack_from(footer.data, start + 4 + number * _BLOCK.size) for number in range(count)]


def _look_at_batch(file: Any, offset: int, header: int, body: int) -> tuple[int, int, bool]:
    """Rows, bytes, and whether it is compressed."""
    data = file.read_at(header, offset)
    skip = 8 if data[:4] == _CONTINUATION else 4
    batch = _Table.root(data[skip:]).table(_MESSAGE_HEADER)
    if batch is None:
        raise IndexError("a header without a batch")
    return batch.number(_BATCH_LENGTH), header + body, batch.table(_BATCH_COMPRESSION) is not None


@dataclass(frozen=True, slots=True)
class _Table:
    """A FlatBuffers table: the offsets of its fields are in a table of their own, before or behind it."""

    data: bytes
    start: int

    @classmethod
    def root(cls, data: bytes) -> _Table:
        """Return the table that is the buffer's root."""
        return cls(data, struct.unpack_from("<I", data)[0])

    def field(self, place: int) -> int | None:
        """Return the offset of a field, or None if it has its default."""
        fields = self.start - struct.unpack_from("<i", self.data, self.start)[0]
        if 4 + 2 * place >= struct.unpack_from("<H", self.data, fields)[0]:
            return None
        offset = struct.unpack_from("<H", self.data, fields + 4 + 2 * place)[0]
        return self.start + int(offset) if offset else None

    def vector(self, place: int) -> int | None:
        """Return where the vector or table that a field refers to begins."""
        at = self.field(place)
        return None if at is None else at + int(struct.unpack_from("<I", self.data, at)[0])

    def table(self, place: int) -> _Table | None:
        """Return the table that a field refers to; None if it has its default."""
        at = self.vector(place)
        return None if at is None else _Table(self.data, at)

    def number(self, place: int) -> int:
        """Return the value of a field of 64 bits; 0 if it has its default."""
        at = self.field(place)
        return 0 if at is None else int(struct.unpack_from("<q", self.data, at)[0])
