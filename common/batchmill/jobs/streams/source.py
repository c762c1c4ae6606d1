"""Sources without an end: what a job reads from a stream, and how it is cut into shards."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from batchmill.durations import Span
from batchmill.jobs.files import CsvDialect, FileSource, SourceFormat
from batchmill.jobs.frozen import Frozen, Name

MAX_AGE_S = 0.05
"""How long a row waits for others of its shard while no slot is free."""

STREAM_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.:/-]{0,127}$"
StreamName = Annotated[str, Field(pattern=STREAM_PATTERN)]
PUSH_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"
TOPIC_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,248}$"
JETSTREAM_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,127}$"
SERVER_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"


class StreamSource(Frozen):
    """What all sources without an end have in common.

    A shard is planned as soon as a slot is free for it; while none is, when it has `max_rows` rows, or as many bytes as
    a shard may have, or when its first row has waited for `max_age_s`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    types: dict[str, str] | None = Field(default=None, alias="schema")
    """Arrow types of columns. A row with a value of another type fails; other columns have the type of their values."""
    time: Name | None = None
    """The column with the time of an event: ISO 8601, or seconds or milliseconds since the epoch. None: its arrival."""
    idle_s: Annotated[float, Span(gt=0)] = 30.0
    """A partition without rows for this long does not hold the watermark back."""
    start: str = Field(default="first", min_length=1, max_length=64)
    """`first`: with the oldest row that is there; `new`: with what comes after the job is accepted; or the id of a job
    that was drained: behind what that one has read."""
    max_rows: int = Field(default=10_000, ge=1, le=1_000_000)
    """Most rows of a shard."""
    max_age_s: Annotated[float, Span(ge=0, le=3600)] = MAX_AGE_S
    """How long a row waits for others while no slot is free."""
    keep_results_s: Annotated[float, Span(ge=60)] = 24 * 3600.0
    """How long results and dead letters are kept, from when their shard is settled."""
    keep_results_bytes: int = Field(default=1024**3, ge=1024**2)
    """Most bytes of results that are kept; the oldest are deleted first."""
    tenant: Name | None = None
    """Whose stream it is: set by the service."""
    offsets: str = ""
    """Where it begins, as `StreamOffsets` writes it: set by the service."""

    @property
    def title(self) -> str:
        """Name it for people."""
        raise NotImplementedError

    @property
    def identity(self) -> tuple[str, ...]:
        """What jobs that read the same stream have in common."""
        raise NotImplementedError

    @property
    def continued(self) -> tuple[str, ...]:
        """What a job has in common with one that it may continue."""
        return self.identity

    @property
    def trims(self) -> bool:
        """Whether rows may be deleted at the source once they are settled."""
        return True


class RedisStream(StreamSource):
    """A stream of Redis or Valkey, to which other programs add entries with XADD; an entry is a row."""

    kind: Literal["redis"]
    """What it is, where it is written as JSON or TOML."""
    stream: StreamName
    """Its key in the server that `BATCHMILL_STREAMS_URL` names; of a tenant, behind `TENANT:`."""
    json_field: Name | None = None
    """The field of an entry that has the row as a JSON object. None: each field is a column of text."""
    trim: bool = True
    """Whether entries are deleted when their rows are settled, by all jobs that read the stream."""

    def __init__(self, stream: str = "", **fields: Any) -> None:
        super().__init__(**{"kind": "redis", "stream": stream} | fields)

    @property
    def title(self) -> str:
        """Name it for people."""
        return f"the Redis stream {self.stream!r}"

    @property
    def identity(self) -> tuple[str, ...]:
        """What jobs that read the same stream have in common."""
        return (self.kind, self.tenant or "", self.stream)

    @property
    def trims(self) -> bool:
        """Whether entries may be deleted."""
        return self.trim


class Push(StreamSource):
    """Rows that are sent to `POST /v1/streams/NAME`, or with `client.push`."""

    kind: Literal["push"]
    """What it is, where it is written as JSON or TOML."""
    stream: Annotated[str, Field(pattern=PUSH_PATTERN)]
    """Its name, of the tenant's own."""

    def __init__(self, stream: str = "", **fields: Any) -> None:
        super().__init__(**{"kind": "push", "stream": stream} | fields)

    @property
    def title(self) -> str:
        """Name it for people."""
        return f"the stream {self.stream!r}"

    @property
    def identity(self) -> tuple[str, ...]:
        """What jobs that read the same stream have in common."""
        return (self.kind, self.tenant or "", self.stream)


class Folder(StreamSource):
    """Files that appear in a folder; each is read once, as the files of `FileSource` are."""

    kind: Literal["folder"]
    """What it is, where it is written as JSON or TOML."""
    path: str = Field(min_length=1)
    """The folder, as a path or URI that the service can see; folders in it are not watched."""
    pattern: str = Field(default="*", min_length=1, max_length=256)
    """Which names are read; `*` and `?` stand for any characters and for one. Names with `.` or `_` first never are."""
    ready_after_s: Annotated[float, Span(ge=0, le=86_400)] = 2.0
    """A file is read once it has not changed for this long."""
    marker: str | None = Field(default=None, min_length=1, max_length=64)
    """Or, once a file is there that has its name and this ending, such as `.done`."""
    format: SourceFormat | None = None
    """The files' format. None: by their endings."""
    columns: list[str] | None = None
    """Read only these columns."""
    csv: CsvDialect | None = None
    """How CSV files are written."""

    def __init__(self, path: str = "", **fields: Any) -> None:
        super().__init__(**{"kind": "folder", "path": path} | fields)

    @property
    def title(self) -> str:
        """Name it for people."""
        return f"the folder {self.path}"

    @property
    def identity(self) -> tuple[str, ...]:
        """Its offsets, which are of one job: each job numbers the files for itself."""
        return (self.kind, self.tenant or "", self.offsets)

    @property
    def continued(self) -> tuple[str, ...]:
        """Its folder."""
        return (self.kind, self.tenant or "", self.path)

    def files(self, path: str) -> FileSource:
        """Return how one of its files is read.

        Args:
            path: The file.

        Returns:
            The file as a source of its own.
        """
        return FileSource(
            path=path, format=self.format, columns=self.columns, csv=self.csv, types=self.types, on_bad_line="dead"
        )


class Kafka(StreamSource):
    """A topic of Kafka, or of a server with its protocol; the value of a message is a row, a JSON object."""

    kind: Literal["kafka"]
    """What it is, where it is written as JSON or TOML."""
    topic: Annotated[str, Field(pattern=TOPIC_PATTERN)]
    """Its name. Topics that are compacted are not meant to be read."""
    server: Annotated[str, Field(pattern=SERVER_PATTERN)] = "kafka"
    """The cluster, as the file of `BATCHMILL_STREAM_SERVERS` names it."""

    def __init__(self, topic: str = "", **fields: Any) -> None:
        super().__init__(**{"kind": "kafka", "topic": topic} | fields)

    @property
    def title(self) -> str:
        """Name it for people."""
        return f"the Kafka topic {self.topic!r}"

    @property
    def identity(self) -> tuple[str, ...]:
        """What jobs that read the same stream have in common."""
        return (self.kind, self.tenant or "", self.server, self.topic)


class Nats(StreamSource):
    """A stream of NATS JetStream; the content of a message is a row, a JSON object."""

    kind: Literal["nats"]
    """What it is, where it is written as JSON or TOML."""
    stream: Annotated[str, Field(pattern=JETSTREAM_PATTERN)]
    """Its name. Its messages must be kept by limits (`retention: limits`), not until somebody has read them."""
    server: Annotated[str, Field(pattern=SERVER_PATTERN)] = "nats"
    """The server, as the file of `BATCHMILL_STREAM_SERVERS` names it."""
    trim: bool = False
    """Whether messages are deleted when their rows are settled, by all jobs that read the stream."""

    def __init__(self, stream: str = "", **fields: Any) -> None:
        super().__init__(**{"kind": "nats", "stream": stream} | fields)

    @property
    def title(self) -> str:
        """Name it for people."""
        return f"the NATS stream {self.stream!r}"

    @property
    def identity(self) -> tuple[str, ...]:
        """What jobs that read the same stream have in common."""
        return (self.kind, self.tenant or "", self.server, self.stream)

    @property
    def trims(self) -> bool:
        """Whether messages may be deleted."""
        return self.trim


AnyStream = RedisStream | Push | Folder | Kafka | Nats

STREAMS: tuple[type[StreamSource], ...] = (RedisStream, Push, Folder, Kafka, Nats)
"""Every kind of stream."""
