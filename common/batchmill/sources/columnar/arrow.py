"""Reads rows of Arrow IPC files and streams by number.

pyarrow reports how many rows a record batch has only once it has read it. `read_index` takes that from the batches'
own headers instead: the footer names where they are, each is a FlatBuffers table of a few hundred bytes. A stream has
no footer: there, each header says where the next one is (`arrow_stream`).
See "IPC File Format" and `Message.fbs` in the Arrow columnar format's specification.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from batchmill.caches import Lru
from batchmill.sources.columnar.arrow_stream import StreamIndex, StreamReader, read_stream_index
from batchmill.sources.columnar.columnar_source import GroupReader, Groups
from batchmill.sources.columnar.flat_table import FlatTable
from batchmill.sources.files.opening import MAX_OPEN_FILES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from batchmill.sources.files.opening import SourceFiles

MAX_COPIED_BYTES = 64 * 1024 * 1024
"""A record batch up to this size is read into memory: a mapped one that is cut short meanwhile ends the process.

Many shards read from a larger one, and each would read all of it.
"""
_TRAILER = struct.Struct("<i6s")  # the footer's length, the magic word
_MAGIC = b"ARROW1"
_FEATHER_1 = b"FEA1"
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
    schema: pa.Schema

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
        self._indexes: Lru[int, Index | StreamIndex] = Lru(MAX_OPEN_FILES)

    def groups(self, index: int) -> Groups:
        """Read where the file's record batches end, and their stored bytes."""
        batches = read_any_index(self._files.open(index))
        return Groups.of(batches.rows, batches.bytes)

    def read(self, index: int, start: int, stop: int) -> pa.Table:
        """Read the batches that have these rows, sliced to them."""
        file = self._files.open(index)
        batches = self._indexes.get_or_make(index, lambda: read_any_index(file))
        ends = batches.ends()
        first, last = np.searchsorted(ends, [start, stop - 1], side="right").tolist()
        is_large = max(batches.bytes[first : last + 1], default=0) > MAX_COPIED_BYTES
        is_mapped = is_large and not batches.is_compressed and self._files.locate(index).is_local
        reader = self._reader(self._files.open(index, mapped=True) if is_mapped else file, batches, is_mapped)
        found = [reader.get_batch(number) for number in range(first, min(last + 1, len(ends)))]
        for batch in found:
            batch.validate(full=True)  # what another program wrote must not make this one read past a buffer
        before = int(ends[first - 1]) if first else 0
        return pa.Table.from_batches(found, reader.schema).slice(start - before, stop - start)

    def _reader(self, file: Any, batches: Index | StreamIndex, is_mapped: bool) -> Any:
        """Open a reader of batches; one that copies or decompresses them does so for the source's columns only."""
        if isinstance(batches, StreamIndex):
            return StreamReader(file, batches, self._columns, is_mapped=is_mapped)
        reader = pa.ipc.open_file(file)
        if is_mapped:
            return reader
        names = reader.schema.names
        fields = [names.index(name) for name in self._columns if name in names]
        return pa.ipc.open_file(file, options=pa.ipc.IpcReadOptions(included_fields=fields))


def read_any_index(file: Any) -> Index | StreamIndex:
    """Read the index of an Arrow IPC file or stream. Raises `pa.ArrowInvalid` for a damaged one, and for Feather 1."""
    size = file.size()
    first, last = (file.read_at(min(len(_MAGIC), size), place) for place in (0, max(size - len(_MAGIC), 0)))
    if _MAGIC in (first, last):
        return read_index(file)
    if first[:4] == _FEATHER_1:
        raise pa.ArrowInvalid(
            "it has version 1 of Feather, and only version 2 is read: write it again with pyarrow.feather.write_feather"
        )
    return read_stream_index(file)


def read_index(file: Any) -> Index:
    """Read the index of an Arrow IPC file. Raises `pa.ArrowInvalid` for a damaged one."""
    schema = pa.ipc.open_file(file).schema  # refuses files that are not Arrow's, with a better message
    try:
        batches = [_look_at_batch(file, *block) for block in _blocks(file)]
    except (struct.error, IndexError) as error:
        raise pa.ArrowInvalid(f"a record batch of the Arrow file is damaged ({error})") from error
    rows, sizes, compressed = zip(*batches, strict=True) if batches else ((), (), ())
    return Index(rows, sizes, any(compressed), schema)


def _blocks(file: Any) -> list[tuple[int, int, int]]:
    """Offset, header length and body length of each record batch."""
    end = file.size() - _TRAILER.size
    length, magic = _TRAILER.unpack(file.read_at(_TRAILER.size, end))
    if magic != _MAGIC:
        raise IndexError("no footer")
    footer = FlatTable.root(file.read_at(length, end - length))
    start = footer.vector(_FOOTER_BATCHES)
    if start is None:
        return []
    (count,) = struct.unpack_from("<I", footer.data, start)
    return [_BLOCK.unpack_from(footer.data, start + 4 + number * _BLOCK.size) for number in range(count)]


def _look_at_batch(file: Any, offset: int, header: int, body: int) -> tuple[int, int, bool]:
    """Rows, bytes, and whether it is compressed."""
    data = file.read_at(header, offset)
    skip = 8 if data[:4] == _CONTINUATION else 4
    batch = FlatTable.root(data[skip:]).table(_MESSAGE_HEADER)
    if batch is None:
        raise IndexError("a header without a batch")
    return batch.number(_BATCH_LENGTH), header + body, batch.table(_BATCH_COMPRESSION) is not None
