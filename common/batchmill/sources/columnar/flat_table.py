"""Tables of FlatBuffers, the form of the metadata of Arrow IPC: a few of their fields are read here, by number."""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FlatTable:
    """A FlatBuffers table: the offsets of its fields are in a table of their own, before or behind it."""

    data: bytes
    start: int

    @classmethod
    def root(cls, data: bytes) -> FlatTable:
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

    def table(self, place: int) -> FlatTable | None:
        """Return the table that a field refers to; None if it has its default."""
        at = self.vector(place)
        return None if at is None else FlatTable(self.data, at)

    def number(self, place: int, form: str = "<q") -> int:
        """Return the value of a field, of 64 bits unless `form` says otherwise; 0 if it has its default."""
        at = self.field(place)
        return 0 if at is None else int(struct.unpack_from(form, self.data, at)[0])
