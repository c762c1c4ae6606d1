"""Results and outputs of a job as workers, finisher and replays write them, for tests of what they promise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.jobs.files import OutputSpec
from batchmill.jobs.job import JobState
from batchmill.jobs.shard import ShardId
from batchmill.sinks import MANIFEST_ENDING, Manifest, columns_of
from batchmill.workspace import Workspace
from support.records import spec_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from batchmill.sinks import ManifestPart, Publisher, ResultStore
    from batchmill.storage.blobs import BlobStore
    from batchmill.storage.locations import Locations


@dataclass(frozen=True)
class JobOutput:
    """The output of a job, and the store through which its workers write into it."""

    job_id: str
    format: Any
    results: ResultStore
    publisher: Publisher

    def write(self, path: tuple[int, ...], token: int, table: pa.Table) -> ManifestPart:
        """Write the results of an attempt, as a worker does; returns what the manifest would list."""
        nbytes = self.results.write(ShardId(path), token, table)
        return self.publisher.part(ShardId(path), token, table.num_rows, nbytes)

    def manifest(self, *parts: ManifestPart, schema: pa.Schema | None = None, **changes: Any) -> Manifest:
        """The manifest of a job that has completed with these parts."""
        fields = {
            "job": self.job_id,
            "state": JobState.COMPLETED,
            "operator": "echo",
            "params": {"model": "m"},
            "format": self.format,
            "rows": sum(part.rows for part in parts),
            "columns": columns_of(schema or pa.schema([])),
            "parts": parts,
            "created_at": 1.5,
            "finished_at": 2.5,
        }
        return Manifest(**(fields | changes))


def job_output(
    uri: str, locations: Locations, blobs: BlobStore, *, job_id: str = "job-1", output_format: Any = "parquet"
) -> JobOutput:
    """Open the output of a job as the coordinator and a worker do."""
    spec = spec_of(operator="echo", output=OutputSpec(path=uri, format=output_format))
    workspace = Workspace(blobs, locations)
    publisher = workspace.open_publisher(job_id, spec)
    assert publisher is not None
    return JobOutput(job_id, output_format, workspace.open_results(job_id, spec, 0), publisher)


def manifest_path(folder: Path) -> Path:
    """Where the manifest of an output folder is."""
    return folder.with_name(folder.name + MANIFEST_ENDING)


def file_names(parts: Iterable[ManifestPart]) -> list[str]:
    """The names of part files."""
    return [part.name for part in parts]
