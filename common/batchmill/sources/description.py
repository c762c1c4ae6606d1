"""What is known of a source once it was validated: its files, its schema, and how many rows, as one JSON value."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Self

import pyarrow as pa
from pydantic import Field

from batchmill.columns import decode_schema
from batchmill.jobs.files import MAX_FILE_BYTES, CsvDialect, SampleSize, SourceFormat
from batchmill.jobs.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

Codec = Literal["gzip", "zstd"]


_READ_OPTIONS = {
    *("csv", "types", "json_text", "keeps_bad_rows", "hive_columns", "path_column", "max_file_bytes"),
    *("limit", "sample", "seed"),
}


class SourceFile(Frozen):
    """One file of a source, as it was when the source was described."""

    name: str  # a path or URI as users know it; the blob's name for uploaded rows
    size: int  # bytes as stored
    mtime_s: int = 0  # seconds since the epoch, the finest that all file systems agree on
    rows: int | None = None  # None: only its head was read
    codec: Codec | None = None
    is_readable: bool = True  # otherwise it is one row, which cannot be read
    fault: str = ""  # why it, or its end, cannot be read: a clause
    values: dict[str, str | None] | None = None  # of columns that a table's log gives; None: its folders give them
    expansion: float = 1.0  # bytes of text for each byte stored, by the part that was read


class SourceDescription(Frozen):
    """A source that was found to be complete and readable. Never changed afterwards.

    The planner and the workers open it with `open_source`, and refuse files that differ from this.
    """

    format: SourceFormat
    where: Literal["files", "blobs"]  # whether the names are users' locations or blobs of uploaded rows
    files: tuple[SourceFile, ...]
    schema_base64: str  # the rows' schema as an Arrow IPC message
    header: tuple[str, ...] | None = None  # the columns that every CSV file has, in the files' order
    selected: bool = False  # whether only some of the files' columns are read
    csv: CsvDialect | None = None
    types: dict[str, str] = Field(default={})  # of columns whose type was given
    json_text: tuple[str, ...] = ()
    keeps_bad_rows: bool = False  # whether a row that cannot be read is listed, instead of failing the job
    hive_columns: tuple[str, ...] = ()  # columns that the folders give, or a table's log
    table_version: int | None = None  # of a table: its files at that version are read
    path_column: str | None = None
    max_file_bytes: int = MAX_FILE_BYTES  # of files that are rows
    limit: int | None = None  # only the first rows are read
    sample: SampleSize | None = None  # only a random choice of the rows is read
    seed: int = 0
    row_bytes: float = 0.0  # average bytes of text a row, by the part that was read; 0 where that is not needed

    @cached_property
    def arrow_schema(self) -> pa.Schema:
        """The schema of the rows that reading gives."""
        return decode_schema(self.schema_base64)

    @cached_property
    def file_schema(self) -> pa.Schema:
        """The columns of `arrow_schema` that are in the files."""
        added = {*self.hive_columns, self.path_column}
        return pa.schema([field for field in self.arrow_schema if field.name not in added])

    @property
    def rows(self) -> int | None:
        """How many rows the files have, or None if that shows only when its end is reached."""
        counts = [file.rows for file in self.files if file.rows is not None]
        return sum(counts) if len(counts) == len(self.files) else None

    @property
    def nbytes(self) -> int:
        """Bytes that its files take up as stored."""
        return total_size(self.files)

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digits that change when the files, their sizes and times, or what is read of them change."""
        parts = [self.format, self.where, self.schema_base64]
        options = self.model_dump_json(include=_READ_OPTIONS, exclude_defaults=True)
        parts += [] if options == "{}" else [options]
        parts += [f"{file.name}\0{file.size}\0{file.mtime_s}" for file in self.files]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def to_json(self) -> bytes:
        """Return the description as UTF-8 JSON; what has its default value is left out."""
        return self.model_dump_json(exclude_defaults=True).encode()

    @classmethod
    def from_json(cls, data: bytes | str) -> Self:
        """Parse what `to_json` returned."""
        return cls.model_validate_json(data)


def total_size(files: Sequence[SourceFile]) -> int:
    """Bytes that the files take up as stored."""
    return sum(file.size for file in files)
