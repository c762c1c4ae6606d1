"""Sources: files of rows, uploaded rows and inline rows, described, split, and read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.sources.base import BadRow, End, InputSplit, NextSplit, NotYet, RowCount, RowsRead, Source, Splitter
from batchmill.sources.binary import BinarySource
from batchmill.sources.columnar.arrow import ArrowReader
from batchmill.sources.columnar.columnar_source import ColumnarSource
from batchmill.sources.columnar.parquet import ParquetReader
from batchmill.sources.describing.describe import describe, describe_upload
from batchmill.sources.description import SourceDescription, SourceFile
from batchmill.sources.files.opening import SourceFiles
from batchmill.sources.inline import InlineSource
from batchmill.sources.part_of_source import LimitedSource, SampledSource
from batchmill.sources.sampling import Sample
from batchmill.sources.text.lines import LineSource

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
    source = _open_files(description, SourceFiles(description, locations, blobs), blobs, staging)
    if isinstance(description.sample, float):
        source = SampledSource(source, Sample.fraction(description.sample, description.seed))
    elif description.sample is not None:
        rows = source.count("").rows
        source = SampledSource(source, Sample.number(description.sample, rows, description.seed))
    return source if description.limit is None else LimitedSource(source, description.limit)


def _open_files(description: SourceDescription, files: SourceFiles, blobs: BlobStore, staging: str) -> Source:
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
