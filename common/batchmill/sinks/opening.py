"""Opens where a stage's results go, and what publishes a job's output: the one place that chooses implementations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.errors import InvalidOutput, InvalidRequest
from batchmill.sinks.file_publisher import FilePublisher
from batchmill.sinks.manifest_file import ManifestFile
from batchmill.sinks.output_folder import OutputFolder
from batchmill.sinks.part_records import PartRecords
from batchmill.sinks.parts import part_format
from batchmill.sinks.publisher import FolderPublisher
from batchmill.sinks.result_store import OutputResults, PartFiles
from batchmill.sinks.rolled_folder import RolledFolder
from batchmill.sinks.schema_log import SchemaLog
from batchmill.sinks.sized_folder import SizedFolderPublisher
from batchmill.storage.blobs import BlobStore

if TYPE_CHECKING:
    from batchmill.jobs.files import OutputSpec
    from batchmill.sinks.publisher import Publisher
    from batchmill.sinks.result_store import ResultStore
    from batchmill.storage.locations import Locations


def kept_results(job_id: str, stage: int, blobs: BlobStore) -> ResultStore:
    """Open the store of results that stay in the service: Arrow files in the blob store."""
    return PartFiles(blobs.below(f"jobs/{job_id}/results/{stage}"), part_format("arrow"))


def schema_log(job_id: str, blobs: BlobStore) -> SchemaLog:
    """Open the schema of a job's output."""
    return SchemaLog(blobs, f"jobs/{job_id}/schemas")


def output_results(output: OutputSpec, job_id: str, locations: Locations, blobs: BlobStore) -> ResultStore:
    """Open the store of the results that a job's output is made of.

    Raises `InvalidOutput` for a malformed path or one outside the roots.
    """
    if output.is_file:
        return _kept_parts(output, job_id, blobs)
    store = _output_store(output, locations)
    parts = _kept_parts(output, job_id, blobs) if output.has_sized_files else _parts(output, job_id, store, blobs)
    return OutputResults(parts, _folder(store, job_id, locations))


def open_publisher(output: OutputSpec, job_id: str, locations: Locations, blobs: BlobStore) -> Publisher:
    """Open the output of a job. Raises as `output_results` does."""
    if output.is_file:
        return _file_publisher(output, job_id, locations, blobs)
    store = _output_store(output, locations)
    parts, folder = _parts(output, job_id, store, blobs), _folder(store, job_id, locations)
    if output.has_sized_files:
        kept = _kept_store(job_id, blobs)
        return SizedFolderPublisher(store, parts, folder, output, kept, _kept_parts(output, job_id, blobs))
    return FolderPublisher(store, parts, folder)


def open_rolled(output: OutputSpec, job_id: str, locations: Locations) -> RolledFolder:
    """Open the output of a job over a stream. Raises as `output_results` does."""
    store = _output_store(output, locations)
    manifests = ManifestFile(store.root, locations)
    return RolledFolder(store, manifests, OutputFolder(store, manifests, job_id), output.format)


def _file_publisher(output: OutputSpec, job_id: str, locations: Locations, blobs: BlobStore) -> Publisher:
    folder, _, name = output.path.rpartition("/")
    store = BlobStore(locations.resolve(folder or "/", error=InvalidOutput))
    try:
        store.location(name)
    except InvalidRequest as error:
        raise InvalidOutput(f"{output.path!r}: {error.message}", hint=error.hint, path=output.path) from error
    parts = _kept_parts(output, job_id, blobs)
    return FilePublisher(store, name, output.format, parts, job_id)


def _kept_parts(output: OutputSpec, job_id: str, blobs: BlobStore) -> PartFiles:
    return _parts(output, job_id, _kept_store(job_id, blobs), blobs)


def _parts(output: OutputSpec, job_id: str, store: BlobStore, blobs: BlobStore) -> PartFiles:
    form, records = part_format(output.format), PartRecords(blobs, job_id)
    return PartFiles(store, form, schema_log(job_id, blobs), records)


def _folder(store: BlobStore, job_id: str, locations: Locations) -> OutputFolder:
    return OutputFolder(store, ManifestFile(store.root, locations), job_id)


def _kept_store(job_id: str, blobs: BlobStore) -> BlobStore:
    return blobs.below(f"jobs/{job_id}/output")


def _output_store(output: OutputSpec, locations: Locations) -> BlobStore:
    return BlobStore(locations.resolve(output.path, error=InvalidOutput))
