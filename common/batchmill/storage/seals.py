"""Seals: what a blob ends with, so that damage to it is noticed whenever it is read.

A seal has the blob's size and a checksum over its name and its bytes. A blob that is cut short, altered, empty, or
another one's under this name does not fit its seal.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import xxhash

from batchmill.errors import DamagedData

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

_MAGIC = b"BMseal1\n"
_SEAL = struct.Struct("<8sQQ")  # the magic word, size in bytes, checksum
_CHUNK_BYTES = 1024 * 1024

SEAL_BYTES = _SEAL.size


def seal_of(name: str, pieces: Iterable[Any]) -> bytes:
    """Return the seal of a blob whose bytes are these pieces in a row."""
    checksum, size = _begin(name), 0
    for piece in pieces:
        view = memoryview(piece)
        checksum.update(view)
        size += view.nbytes
    return _SEAL.pack(_MAGIC, size, checksum.intdigest())


def seal_file(name: str, path: str) -> None:
    """Append its seal to the file of a blob."""
    checksum, size = _begin(name), 0
    with Path(path).open("r+b") as file:
        while chunk := file.read(_CHUNK_BYTES):
            checksum.update(chunk)
            size += len(chunk)
        file.write(_SEAL.pack(_MAGIC, size, checksum.intdigest()))


def unseal(name: str, sealed: pa.Buffer, uri: str) -> pa.Buffer:
    """Return the bytes before the seal. Raises `DamagedData`, which names `uri`, if they are not what was written."""
    size = sealed.size - SEAL_BYTES
    if size < 0:
        raise damaged(uri, f"it has {sealed.size:,} bytes, fewer than any blob")
    data = sealed.slice(0, size)
    magic, expected, checksum = _SEAL.unpack(memoryview(sealed)[size:])
    if magic != _MAGIC:
        raise damaged(uri, "its end is missing or altered")
    if expected != size:
        raise damaged(uri, f"it was written with {expected:,} bytes and has {size:,}")
    found = _begin(name)
    found.update(memoryview(data))
    if found.intdigest() != checksum:
        raise damaged(uri, "its bytes do not fit its checksum")
    return data


def unsealed_pieces(name: str, file: BinaryIO | pa.NativeFile, size: int, uri: str) -> Iterator[bytes]:
    """Yield the bytes before the seal of an open file of `size` bytes, seal included, piece by piece.

    Raises `DamagedData` as `unseal`, before the last piece: who has got all of them has got what was written.
    """
    left, checksum, held = size - SEAL_BYTES, _begin(name), b""
    if left < 0:
        raise damaged(uri, f"it has {size:,} bytes, fewer than any blob")
    while left > 0:
        piece = file.read(min(left, _CHUNK_BYTES))
        if not piece:
            raise damaged(uri, "its end is missing or altered")
        checksum.update(piece)
        left -= len(piece)
        if held:
            yield held
        held = piece
    if file.read(SEAL_BYTES) != _SEAL.pack(_MAGIC, size - SEAL_BYTES, checksum.intdigest()):
        raise damaged(uri, "its bytes do not fit its checksum")
    if held:
        yield held


def checksum_of(path: str) -> tuple[int, int]:
    """Return the size in bytes and the xxh3 (64 bits) of a file."""
    with Path(path).open("rb") as file:
        return checksum_of_open(file)


def checksum_of_open(file: BinaryIO | pa.NativeFile) -> tuple[int, int]:
    """Return the size in bytes and the xxh3 (64 bits) of an open file, which is read in pieces."""
    checksum, size = xxhash.xxh3_64(), 0
    while chunk := file.read(_CHUNK_BYTES):
        checksum.update(chunk)
        size += len(chunk)
    return size, checksum.intdigest()


def check(data: pa.Buffer, size: int, checksum: int, uri: str) -> None:
    """Raise `DamagedData`, which names `uri`, if bytes are not those of which `checksum_of` was taken."""
    if data.size != size:
        raise damaged(uri, f"it was written with {size:,} bytes and has {data.size:,}")
    if xxhash.xxh3_64_intdigest(memoryview(data)) != checksum:
        raise damaged(uri, "its bytes do not fit its checksum")


def damaged(uri: str, reason: str) -> DamagedData:
    """Make the error for stored data that is not what was written."""
    return DamagedData(
        f"{uri} is damaged: {reason}.",
        hint="The disk or another program changed it: restore it from a copy, or compute it again.",
        path=uri,
    )


def _begin(name: str) -> xxhash.xxh3_64:
    return xxhash.xxh3_64(name.encode() + b"\0")
