"""Sinks: a folder that takes the results of a job, part by part, and a manifest that puts them in order."""

from __future__ import annotations

from batchmill.sinks.manifest import MANIFEST, Column, Manifest, ManifestPart, Origin, columns_of
from batchmill.sinks.parts import to_json_lines
from batchmill.sinks.sink import MARKER, Part, Sink, open_sink

__all__ = [
    "MANIFEST",
    "MARKER",
    "Column",
    "Manifest",
    "ManifestPart",
    "Origin",
    "Part",
    "Sink",
    "columns_of",
    "open_sink",
    "to_json_lines",
]
