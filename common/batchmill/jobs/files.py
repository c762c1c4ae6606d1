"""Where the rows of a job come from, and where its results go."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, model_validator

from batchmill.durations import Span
from batchmill.jobs.frozen import Frozen, Name

SourceFormat = Literal["parquet", "jsonl", "csv", "arrow", "text", "binary"]
MAX_FILE_BYTES = 64 * 1024 * 1024
OutputFormat = Literal["parquet", "jsonl", "arrow"]
_FILE_ENDINGS: dict[str, OutputFormat] = {".parquet": "parquet", ".jsonl": "jsonl", ".arrow": "arrow"}
SampleSize = Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)]
OneCharacter = Annotated[str, Field(min_length=1, max_length=1)]


class CsvDialect(Frozen):
    """How CSV files are written. Each character is one of ASCII."""

    delimiter: OneCharacter = ","
    quote: OneCharacter | None = '"'  # None: a quote is a character like any other
    escape: OneCharacter | None = None  # before a character that is to lose its meaning
    header: bool | list[str] = True  # the first record names the columns; or their names, for files without such a one
    null_values: list[str] | None = None  # words that mean no value, in text too; None: an empty value outside text
    encoding: str = "utf-8"


class FileSource(Frozen):
    """Files to read: a file, a folder, a glob, or several of them, as paths or URIs the service can see."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    path: str | list[str]
    format: SourceFormat | None = None  # None: by the files' endings
    columns: list[str] | None = None  # read only these
    csv: CsvDialect | None = None
    types: dict[str, str] | None = Field(default=None, alias="schema")  # Arrow types of columns of CSV and JSON Lines
    json_text: list[str] | None = None  # columns of JSON Lines to read as JSON text, whatever they hold
    missing_columns: Literal["fail", "null"] = "fail"  # what a column is in a Parquet or Arrow file that lacks it
    hive_columns: bool = True  # whether folders named `column=value` give columns
    path_column: Name | None = None  # a column to add with the file that each row is from
    on_bad_line: Literal["fail", "dead"] = "fail"  # what becomes of a job, or a row, that cannot be read
    max_file_bytes: int = Field(default=MAX_FILE_BYTES, ge=1, le=2**31 - 1)  # of `binary`: a larger file is a bad row
    limit: int | None = Field(default=None, ge=1)  # read only the first rows, of the sample if there is one
    sample: SampleSize | None = None  # read only a random choice of the rows: a share of them, or a number
    table_version: int | None = Field(default=None, ge=0, lt=2**63)  # of a table; None: the newest
    seed: int = Field(default=0, ge=0, lt=2**63)  # of the sample: the same one gives the same rows


class UploadSource(Frozen):
    """Rows that the client has put into the blob store piece by piece."""

    upload: str
    parts: int = Field(ge=0)
    failed_before: bool = False  # of a replay: the rows are at fault, not the operator, if they all fail again
    lineage: bool = False  # of a replay in a chain: the rows have the columns that say where they are from


def upload_part(upload_id: str, number: int) -> str:
    """Name the blob of one part of an upload."""
    return f"uploads/{upload_id}/part-{number:08d}.arrow"


class ResultsSource(Frozen):
    """The results of a stage of another job, which has ended; not those of its last one."""

    job: Name
    stage: Name


MIN_ROWS_PER_FILE = 1000
MIN_FILE_BYTES = 1024 * 1024
"""Smaller files would be more than readers of a folder and the service can list."""


class OutputSpec(Frozen):
    """A folder for the results, or one file if the path has a file's ending, as a path or URI the service can see."""

    path: str
    format: OutputFormat = "parquet"
    """The format of the folder's files; that of one file follows from its ending."""
    max_rows_per_file: int | None = Field(default=None, ge=MIN_ROWS_PER_FILE)
    """Rows in a file of the folder. None, without `target_file_bytes` either: each shard is a file."""
    target_file_bytes: int | None = Field(default=None, ge=MIN_FILE_BYTES)
    """About how large a file of the folder becomes."""
    roll_s: Annotated[float, Span(ge=1, le=86_400)] | None = None
    """Of a job over a stream: after this time a file is written though it is not full. None: after a minute."""

    @property
    def is_file(self) -> bool:
        """Whether the results become one file."""
        return _format_by_ending(self.path) is not None

    @property
    def has_sized_files(self) -> bool:
        """Whether the size of the folder's files was chosen."""
        return self.max_rows_per_file is not None or self.target_file_bytes is not None

    @model_validator(mode="after")
    def _has_one_size(self) -> OutputSpec:
        if self.is_file and self.has_sized_files:
            raise ValueError(f"{self.path} is one file of any size; give a folder to get files of a chosen size")
        return self

    @model_validator(mode="before")
    @classmethod
    def _take_format_from_ending(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or not isinstance(fields.get("path"), str):
            return fields
        by_ending = _format_by_ending(fields["path"])
        if by_ending is not None and fields.get("format", by_ending) != by_ending:
            raise ValueError(f"the path ends like a {by_ending} file, and the format is {fields['format']}")
        return fields if by_ending is None else {**fields, "format": by_ending}


def _format_by_ending(path: str) -> OutputFormat | None:
    return _FILE_ENDINGS.get(PurePosixPath(path).suffix.lower())
