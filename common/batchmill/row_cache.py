"""The row cache as all parts know it: the folder of its segments, and its statistics."""

from __future__ import annotations

import re

from pydantic import Field

from batchmill.jobs.frozen import Frozen

FOLDER = "cache"
"""The folder of segments in the blob store."""


_BLOB = re.compile(rf"{FOLDER}/([0-9a-f]{{12}})\.arrow")


class CacheStats(Frozen):
    """Statistics of the row cache. Hits and misses are rows that jobs looked up since it was last cleared."""

    entries: int = Field(default=0, ge=0)  # rows whose results it has
    segments: int = Field(default=0, ge=0)  # the blobs that store them
    bytes: int = 0  # that those take
    hits: int = 0
    misses: int = 0
    evicted: int = 0  # rows that made room for others


def segment_blob(segment: bytes) -> str:
    """The blob of a segment by its name, 6 bytes."""
    return f"{FOLDER}/{segment.hex()}.arrow"


def segment_of_blob(blob: str) -> bytes | None:
    """The inverse of `segment_blob`; None for what is no segment's blob."""
    found = _BLOB.fullmatch(blob)
    return bytes.fromhex(found[1]) if found else None
