"""The manifest of a finished output: which files are its parts, in input order, and what is in them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from batchmill.errors import StorageError
from batchmill.jobs.frozen import Frozen
from batchmill.jobs.job import JobState
from batchmill.jobs.shard import parse_shard_id
from batchmill.jobs.unfinished import UnfinishedWork

if TYPE_CHECKING:
    import pyarrow as pa


class Column(Frozen):
    """A column of the results: its name, and its Arrow type as text."""

    name: str
    type: str


class ManifestPart(Frozen):
    """One file of the results."""

    name: str  # in the output folder
    rows: int = Field(ge=0)
    bytes: int = Field(ge=0)
    xxh3: str | None = None  # checksum of the file, 16 hexadecimal digits; None: an earlier version wrote it
    shard: str | None = None  # "17", or "17.1" once split; of a file of a chosen size: None

    @property
    def token(self) -> int:
        """The token of the attempt whose results it has, which its name ends with."""
        return int(self.name.rpartition("-a")[2].partition(".")[0])


class StageFingerprint(Frozen):
    """What a stage before the last one was, in a job of several."""

    name: str
    operator: str
    params: dict[str, Any] = Field(default_factory=dict)
    operator_version: str = ""
    carry: tuple[str, ...] | None = None
    skips_nulls: bool = False
    keep: bool = False


class InputFingerprint(Frozen):
    """What the results were made from: a job with another fingerprint cannot resume them."""

    source: str  # hexadecimal digits that change when the input does
    files: dict[str, str] = Field(default_factory=dict)  # by name, their size and time, if they are not too many
    operator_version: str = ""
    carry: tuple[str, ...] | None = None
    table_version: int | None = None  # of a table of Delta Lake or Iceberg
    skips_nulls: bool = False  # whether rows without a required value have no result
    stages: tuple[StageFingerprint, ...] = ()  # before the last one, whose operator is the manifest's


class Manifest(Frozen):
    """What a finished job wrote. Its presence says that the folder is complete; only replays change it then.

    The rows of the parts, one after another, are the results in input order. Times are seconds since the epoch.
    """

    version: Literal[1] = 1  # of the manifest
    job: str
    state: JobState
    operator: str
    params: dict[str, Any] = Field(default_factory=dict)
    format: Literal["parquet", "jsonl", "arrow"]
    rows: int = Field(ge=0)
    rows_dead: int = Field(default=0, ge=0)  # failed rows; they are in no part
    columns: tuple[Column, ...]
    arrow_schema: str | None = None  # that of all parts: Arrow's IPC message, in base64
    parts: tuple[ManifestPart, ...]
    created_at: float
    finished_at: float
    origin: InputFingerprint | None = None
    rest: UnfinishedWork | None = None  # of a job that ended before its work was done
    roll: int | None = Field(default=None, ge=0)  # of a job over a stream: the number of the roll whose manifest it is

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        rows = sum(part.rows for part in self.parts)
        if rows != self.rows:
            raise ValueError(f"the parts hold {rows} rows, the manifest says {self.rows}")
        shards = [parse_shard_id(part.shard) for part in self.parts if part.shard is not None]
        if any(first >= second for first, second in pairwise(shards)):
            raise ValueError("the parts are not in input order, or a shard is there twice")
        return self

    @classmethod
    def parse(cls, data: bytes, place: str) -> Self:
        """Parse what `to_json` returned; messages name `place`. Raises `StorageError` for a broken one."""
        try:
            return cls.model_validate_json(data)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the document"
            raise StorageError(f"{place} is no manifest of Batchmill: {where}: {first['msg']}.", path=place) from error

    def to_json(self) -> bytes:
        """Return the manifest as it is stored."""
        absent = {name for name in ("arrow_schema", "origin", "rest", "roll") if getattr(self, name) is None}
        return self.model_dump_json(indent=1, exclude=absent).encode()


def columns_of(schema: pa.Schema) -> tuple[Column, ...]:
    """Return the columns of a schema, in its order."""
    return tuple(Column(name=field.name, type=str(field.type)) for field in schema)
