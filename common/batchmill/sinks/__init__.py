"""Where results go: a `ResultStore` for each stage of a job, and a `Publisher` for the output that its user gets."""

from __future__ import annotations

from batchmill.sinks.manifest import MANIFEST, Column, InputFingerprint, Manifest, ManifestPart, columns_of
from batchmill.sinks.opening import kept_results, open_publisher, output_results, schema_log
from batchmill.sinks.output_folder import MARKER
from batchmill.sinks.parts import part_format, to_json_lines
from batchmill.sinks.publisher import Publisher
from batchmill.sinks.result_store import ResultStore
from batchmill.sinks.schema_log import SchemaLog

__all__ = [
    "MANIFEST",
    "MARKER",
    "Column",
    "InputFingerprint",
    "Manifest",
    "ManifestPart",
    "Publisher",
    "ResultStore",
    "SchemaLog",
    "columns_of",
    "kept_results",
    "open_publisher",
    "output_results",
    "part_format",
    "schema_log",
    "to_json_lines",
]
