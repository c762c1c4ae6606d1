"""Decompresses gzip as `gunzip` does: members one after another, and zeros behind them, which tapes and some tools add.

The gzip reader of Arrow takes such zeros for a damaged member.
"""

from __future__ import annotations

import zlib
from typing import Any

import pyarrow as pa

_READ_BYTES = 64 * 1024
_GZIP = 16 + zlib.MAX_WBITS  # with gzip's header and checksum


class GzipText:
    """The text of a gzip file, read from its beginning. file: has `read`, and is at its start."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._member: Any = zlib.decompressobj(_GZIP)
        self._data: bytes = b""  # read from the file, not decompressed yet
        self._at_end = False

    def read_buffer(self, size: int) -> pa.Buffer:
        """Return the next bytes, at most `size`; none at the end. Raises `pa.ArrowInvalid` for a damaged file."""
        parts: list[bytes] = []
        left = size
        while left and not self._at_end:
            part = self._next(left)
            parts.append(part)
            left -= len(part)
        return pa.py_buffer(parts[0] if len(parts) == 1 else b"".join(parts))

    def _next(self, size: int) -> bytes:
        if not self._data:
            self._data = self._file.read(_READ_BYTES)
        if not self._data and not self._member.eof:
            raise pa.ArrowInvalid("Truncated compressed stream")
        if self._member.eof:
            self._begin_member()
        if self._at_end:
            return b""
        try:
            part: bytes = self._member.decompress(self._data, size)
        except zlib.error as error:
            raise pa.ArrowInvalid(f"its gzip data is damaged ({error})") from error
        self._data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
        return part

    def _begin_member(self) -> None:
        """Skip zeros; what follows them is another member, or there is nothing."""
        self._data = self._data.lstrip(b"\0")
        while not self._data and (data := self._file.read(_READ_BYTES)):
            self._data = data.lstrip(b"\0")
        self._at_end = not self._data
        self._member = zlib.decompressobj(_GZIP)
