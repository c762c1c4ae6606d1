"""Where the rows of a job are: its source, its results and its output, opened from ledger and blob store."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.jobs.stages import last_stage
from batchmill.sinks import kept_results, open_publisher, open_rolled, output_results, schema_log
from batchmill.sources import InlineSource, SourceDescription, open_source
from batchmill.storage.blobs import BlobStore
from batchmill.storage.named_stream_servers import NamedStreamServers

if TYPE_CHECKING:
    from batchmill.jobs.job import JobSpec
    from batchmill.jobs.shard import Slice
    from batchmill.settings import ServiceSettings
    from batchmill.sinks import Publisher, ResultStore, RolledFolder, SchemaLog
    from batchmill.sources.base import Source
    from batchmill.storage.locations import Locations


class Workspace:
    """The blob store, and the locations that users may name. Thread-safe.

    streams_url: the Redis with users' streams; "": the ledger's. stream_servers: other servers with streams.
    """

    def __init__(
        self,
        blobs: BlobStore,
        locations: Locations,
        streams_url: str = "",
        stream_servers: NamedStreamServers | None = None,
    ) -> None:
        self.blobs = blobs
        self.locations = locations
        self.streams_url = streams_url
        self.stream_servers = stream_servers or NamedStreamServers()

    @classmethod
    def open(cls, settings: ServiceSettings) -> Workspace:
        """Open the workspace that the settings name.

        Raises `StorageError` when the blob store cannot be used, `InvalidSettings` when users may name its blobs.
        """
        blobs, locations = BlobStore.open(settings.blob_root, settings.blob_locations()), settings.locations()
        if not settings.unrestricted:
            locations.refuse_overlap(blobs.root)
        return cls(blobs, locations, settings.streams_url, NamedStreamServers.load(settings.stream_servers))

    def describe_source(self, job_id: str, description: SourceDescription) -> None:
        """Store the description of a job's source. Raises `StorageError`."""
        self.blobs.put(_description(job_id), description.to_json())

    def described(self, job_id: str) -> SourceDescription:
        """Read the description of a job's source. Raises `NotFound` or `StorageError`."""
        return SourceDescription.from_json(self.blobs.get(_description(job_id)).to_pybytes())

    def digest(self, inline_rows: bytes, description: SourceDescription | None) -> str:
        """Return hexadecimal digits that change when a job's input does.

        They depend on the names, sizes and times of files, and on the content of rows that were sent.
        Raises `NotFound` or `StorageError`.
        """
        if description is not None and description.where == "files":
            return description.fingerprint
        digest = hashlib.blake2b(inline_rows, digest_size=16)
        for file in description.files if description is not None else ():
            digest.update(memoryview(self.blobs.get(file.name)))
        return digest.hexdigest()

    def keep_rows(self, job_id: str, rows: bytes) -> None:
        """Store rows that were sent with a job, an Arrow stream, which the ledger forgets. Raises `StorageError`."""
        self.blobs.put(_kept_rows(job_id), rows)

    def kept_rows(self, job_id: str) -> bytes:
        """Read what `keep_rows` stored. Raises `NotFound` or `StorageError`."""
        return bytes(self.blobs.get(_kept_rows(job_id)).to_pybytes())

    def delete_staged(self, job_id: str) -> None:
        """Delete text that was decompressed for a job. Raises `StorageError`."""
        self.blobs.delete_folder(_staging(job_id))

    def own_staged(self, job_id: str, earlier: Slice) -> Slice:
        """Make a slice of an earlier job one of this job's: text that was decompressed for it is copied.

        Raises `NotFound` if the earlier job was deleted since.
        """
        if not earlier.staged:
            return earlier
        name = f"{_staging(job_id)}/{earlier.staged.rpartition('/')[2]}"
        self.blobs.put(name, self.blobs.get(earlier.staged))
        return replace(earlier, staged=name)

    def open_source(self, job_id: str, spec: JobSpec, inline_rows: bytes | None) -> Source:
        """Open a job's source. Raises `NotFound` when the job's files are gone."""
        if spec.source is None:
            return InlineSource(table_from_stream(inline_rows or b""))
        return self.open_described(job_id, self.described(job_id))

    def open_described(self, job_id: str, description: SourceDescription) -> Source:
        """Open the source of a description; text that had to be decompressed is kept among the job's files."""
        return open_source(description, self.locations, self.blobs, staging=_staging(job_id))

    def open_results(self, job_id: str, spec: JobSpec, stage: int) -> ResultStore:
        """Open the store of a stage's results.

        Those of the last stage go straight into the job's output, if it has one that is written at its end. Raises
        `InvalidOutput` for an output outside the roots.
        """
        if spec.output is not None and spec.stream is None and stage == last_stage(spec):
            return output_results(spec.output, job_id, self.locations, self.blobs)
        return kept_results(job_id, stage, self.blobs)

    def delete_between_stages(self, job_id: str, spec: JobSpec) -> list[int]:
        """Delete the results of a job's stages but the last one's and those to be kept. Raises `StorageError`.

        Returns the numbers of those stages.
        """
        between = [number for number, stage in enumerate(spec.stages[:-1]) if not stage.keep]
        for number in between:
            self.blobs.delete_folder(f"jobs/{job_id}/results/{number}")
        return between

    def schema_log(self, job_id: str) -> SchemaLog:
        """Open the schema of a job's output."""
        return schema_log(job_id, self.blobs)

    def open_publisher(self, job_id: str, spec: JobSpec) -> Publisher | None:
        """Open a job's output; None if its results stay in the service, or it is written roll by roll.

        Raises as `open_results` does.
        """
        if spec.output is None or spec.stream is not None:
            return None
        return open_publisher(spec.output, job_id, self.locations, self.blobs)

    def open_rolled(self, job_id: str, spec: JobSpec) -> RolledFolder | None:
        """Open the output of a job over a stream; None if it has none. Raises as `open_results` does."""
        if spec.output is None or spec.stream is None:
            return None
        return open_rolled(spec.output, job_id, self.locations)


def _description(job_id: str) -> str:
    return f"jobs/{job_id}/source.json"


def _kept_rows(job_id: str) -> str:
    return f"jobs/{job_id}/rows.arrow"


def _staging(job_id: str) -> str:
    return f"jobs/{job_id}/staged"


def table_from_stream(data: bytes) -> pa.Table:
    """Read the table in an Arrow IPC stream; no bytes are an empty table. Raises `pyarrow.ArrowInvalid`."""
    if not data:
        return pa.table({})
    with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
        return stream.read_all()


def stream_from_table(table: pa.Table) -> bytes:
    """Write a table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue().to_pybytes())
