"""Where results go: a `ResultStore` for each stage of a job, and a `Publisher` for the output that its user gets."""

from __future__ import annotations

from batchmill.sinks.manifest import (
    Column,
    InputFingerprint,
    Manifest,
    ManifestPart,
    StageFingerprint,
    columns_of,
)
from batchmill.sinks.manifest_file import MANIFEST_ENDING, ManifestFile
from batchmill.sinks.opening import kept_results, open_publisher, open_rolled, output_results, schema_log
from batchmill.sinks.output_folder import MARKER
from batchmill.sinks.part_records import keep_resumed_manifest, resumed_manifest
from batchmill.sinks.parts import part_format, to_json_lines
from batchmill.sinks.publisher import Publisher
from batchmill.sinks.result_store import ResultStore
from batchmill.sinks.rolled_folder import RolledFolder
from batchmill.sinks.schema_log import SchemaLog
from batchmill.sinks.sized_folder import plan_files

__all__ = [
    "MANIFEST_ENDING",
    "MARKER",
    "Column",
    "InputFingerprint",
    "Manifest",
    "ManifestFile",
    "ManifestPart",
    "Publisher",
    "ResultStore",
    "RolledFolder",
    "SchemaLog",
    "StageFingerprint",
    "columns_of",
    "keep_resumed_manifest",
    "kept_results",
    "open_publisher",
    "open_rolled",
    "output_results",
    "part_format",
    "plan_files",
    "resumed_manifest",
    "schema_log",
    "to_json_lines",
]
