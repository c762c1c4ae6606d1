"""Segments of the row cache: the results of some rows, each with its row's digest, as one Arrow file.

A place in a segment is where a row's results begin, and their number. A reader trusts neither index nor file: a result
counts only if the digest stored with it is the one that was requested.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from batchmill.ledger.formats.encodings import split_place
from batchmill_worker.row_cache.digests import DIGEST_BYTES
from batchmill_worker.row_cache.plan import Piece, ranges

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill_worker.batching.packing import Rows

DIGEST = "__batchmill_digest__"
"""The last column of a segment."""

_PLACE = struct.Struct("<II")


class BrokenSegment(Exception):
    """A segment does not contain what the index says."""


def encode_segment(piece: Piece, digests: Sequence[bytes]) -> tuple[pa.Table, bytes]:
    """Make a segment of a piece's results, and the places of its rows in it, 8 bytes each.

    digests: of the piece's rows.
    """
    beside = b"".join(digest * count for digest, count in zip(digests, piece.counts.tolist(), strict=True))
    column = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(DIGEST_BYTES), piece.results.num_rows, [None, pa.py_buffer(beside)]
    )
    starts = (np.cumsum(piece.counts) - piece.counts).tolist()
    places = b"".join(map(_PLACE.pack, starts, piece.counts.tolist()))
    return piece.results.append_column(DIGEST, column), places


def decode_segment(data: pa.Buffer) -> pa.Table:
    """Read the table in a segment's file. Raises `BrokenSegment`."""
    try:
        table = pa.ipc.open_file(data).read_all()
        table.validate(full=True)  # reading rows by invalid offsets would crash the process
    except (pa.ArrowException, OSError) as error:
        raise BrokenSegment(str(error).partition("\n")[0]) from error
    return table


def by_segment(places: Sequence[bytes | None], *, expands: bool) -> dict[bytes, tuple[list[int], list[int], list[int]]]:
    """Group the entries of an index by segment: its rows, where the results of each begin, and their number.

    Invalid entries are skipped: their rows count as missing.
    """
    found: dict[bytes, tuple[list[int], list[int], list[int]]] = {}
    for row, place in enumerate(places):
        name, inside = split_place(place or b"")
        if len(inside) != _PLACE.size:
            continue
        start, count = _PLACE.unpack(inside)
        if not expands and count != 1:
            continue
        rows, starts, counts = found.setdefault(name, ([], [], []))
        rows.append(row)
        starts.append(start)
        counts.append(count)
    return found


def pick(segment: pa.Table, owners: Rows, starts: Rows, counts: Rows, digests: Sequence[bytes]) -> Piece:
    """Take the results of some rows out of a segment. Raises `BrokenSegment` if they are not in it."""
    if segment.column_names[-1:] != [DIGEST] or segment.schema.field(DIGEST).type != pa.binary(DIGEST_BYTES):
        raise BrokenSegment(f"it has no column of digests, but {segment.schema.names}")
    if np.any(starts + counts > segment.num_rows):
        raise BrokenSegment(f"it has {segment.num_rows} rows, fewer than the index says")
    results = segment.take(pa.array(ranges(starts, counts)))
    expected = [digest for digest, count in zip(digests, counts.tolist(), strict=True) for _ in range(count)]
    if results.column(DIGEST).to_pylist() != expected:
        raise BrokenSegment("it holds the results of other rows than the index says")
    return Piece(owners, counts, results.drop_columns([DIGEST]))
