"""Sources: files of rows, uploaded rows and inline rows, described, split, and read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.sources.arrow import ArrowReader
from batchmill.sources.base import BadRow, End, InputSplit, NextSplit, NotYet, RowCount, RowsRead, Source, Splitter
from batchmill.sources.binary import BinarySource
from batchmill.sources.columnar import ColumnarSource
from batchmill.sources.describe import describe, describe_upload
from batchmill.sources.description import SourceDescription, SourceFile
from batchmill.sources.inline import InlineSource
from batchmill.sources.lines import LineSource
from batchmill.sources.opening import SourceFiles
from batchmill.sources.parquet import ParquetReader

if TYPE_CHECKING:
    from batchmill.storage.blobs import BlobStore
    from batchmill.storage.locations import Locations

__all__ = [
    "BadRow",
    "End",
    "InlineSource",
    "InputSplit",
    "NextSplit",
    "NotYet",
    "RowCount",
    "RowsRead",
    "Source",
    "SourceDescription",
    "SourceFile",
    "Splitter",
    "describe",
    "describe_upload",
    "open_source",
]


def open_source(description: SourceDescription, locations: Locations, blobs: BlobStore, staging: str) -> Source:
    """Open the source that was described, for the planner to split and for workers to read. Safe for several threads.

    staging: the folder of the blob store for the text of compressed files; one for each job.
    """
    files = SourceFiles(description, locations, blobs)
    columns = description.file_schema.names
    match description.format:
        case "parquet":
            return ColumnarSource(description, files, ParquetReader(files, columns))
        case "arrow":
            return ColumnarSource(description, files, ArrowReader(files, columns))
        case "binary":
            return BinarySource(description, files)
        case _:
            return LineSource(description, files, blobs, staging)
