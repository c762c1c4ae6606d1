"""Where the rows of a job lie: its source and its sink, opened from what the ledger and the blob store hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.blobs import BlobStore
from batchmill.sinks import Sink, open_sink
from batchmill.sources import InlineSource, SourceDescription, open_source

if TYPE_CHECKING:
    from batchmill.job import JobSpec
    from batchmill.locations import Locations
    from batchmill.settings import ServiceSettings
    from batchmill.sources.base import Source


class Workspace:
    """The blob store, and the places that users may name. Thread-safe."""

    def __init__(self, blobs: BlobStore, locations: Locations) -> None:
        self.blobs = blobs
        self.locations = locations

    @classmethod
    def open(cls, settings: ServiceSettings) -> Workspace:
        """The workspace that the settings name. Raises `StorageError` when the blob store cannot be used."""
        return cls(BlobStore.open(settings.blob_root, settings.blob_locations()), settings.locations())

    def describe_source(self, job_id: str, description: SourceDescription) -> None:
        """Keep what a job's source is."""
        self.blobs.put(_description(job_id), description.to_json())

    def open_source(self, job_id: str, spec: JobSpec, inline_rows: bytes | None) -> Source:
        """A job's source. Raises `NotFound` when the job's files are gone."""
        if spec.source is None:
            return InlineSource(table_from_stream(inline_rows or b""))
        described = self.blobs.get(_description(job_id)).to_pybytes()
        return self.open_described(job_id, SourceDescription.from_json(described))

    def open_described(self, job_id: str, description: SourceDescription) -> Source:
        """The source of that description; text that had to be decompressed is kept among the job's files."""
        return open_source(description, self.locations, self.blobs, staging=f"jobs/{job_id}/staged")

    def open_sink(self, job_id: str, spec: JobSpec) -> Sink:
        """Where a job's results go."""
        return open_sink(spec.output, job_id, self.blobs, self.locations)


def _description(job_id: str) -> str:
    return f"jobs/{job_id}/source.json"


def table_from_stream(data: bytes) -> pa.Table:
    """The table in an Arrow IPC stream; no bytes are an empty table. Raises `pyarrow.ArrowInvalid`."""
    if not data:
        return pa.table({})
    with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
        return stream.read_all()


def stream_from_table(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue().to_pybytes())
