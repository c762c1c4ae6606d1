"""What is known of the part files of an output: their checksums, and the schema of their rows.

A record is a small blob of the service for each part. It is not in the output itself, where readers of folders
would take it for rows. The parts that a resumed job has from an earlier one are described by the manifest it resumes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import pyarrow as pa

from batchmill.columns import decode_schema
from batchmill.errors import NotFound
from batchmill.sinks.manifest import Manifest
from batchmill.storage.seals import checksum_of

if TYPE_CHECKING:
    from batchmill.storage.blobs import BlobStore


_NUMBERS = struct.Struct("<QQ")  # size in bytes, checksum


@dataclass(frozen=True, slots=True)
class PartRecord:
    """What a part file holds, and how it is found to be what was written."""

    nbytes: int
    checksum: int  # xxh3, 64 bits
    schema: pa.Schema

    @property
    def xxh3(self) -> str:
        """Return the checksum as a manifest has it."""
        return f"{self.checksum:016x}"

    def to_bytes(self) -> bytes:
        """Return the record as it is stored."""
        return _NUMBERS.pack(self.nbytes, self.checksum) + bytes(self.schema.serialize())

    @classmethod
    def parse(cls, data: pa.Buffer) -> Self:
        """Parse what `to_bytes` returned."""
        nbytes, checksum = _NUMBERS.unpack(memoryview(data)[: _NUMBERS.size])
        return cls(nbytes, checksum, pa.ipc.read_schema(data.slice(_NUMBERS.size)))

    @classmethod
    def of_file(cls, path: str, schema: pa.Schema) -> Self:
        """Make the record of a file."""
        return cls(*checksum_of(path), schema)


class PartRecords:
    """The records of one job's parts, by the names of their files. Safe to use from several threads and processes.

    blobs: the service's; the records are below `jobs/JOB/parts`.
    """

    def __init__(self, blobs: BlobStore, job_id: str) -> None:
        self._blobs = blobs
        self._job_id = job_id

    def put(self, name: str, record: PartRecord) -> None:
        """Store the record of a part. Raises `StorageError`."""
        self._blobs.put(self._name(name), record.to_bytes())

    def get(self, name: str) -> PartRecord | None:
        """Read the record of a part; None for one that an earlier version of Batchmill wrote. Raises `StorageError`."""
        try:
            return PartRecord.parse(self._blobs.get(self._name(name)))
        except NotFound:
            return self._resumed.get(name)

    def delete(self, name: str) -> None:
        """Delete the record of a part; without one, do nothing. Raises `StorageError`."""
        self._blobs.delete(self._name(name))

    @cached_property
    def _resumed(self) -> dict[str, PartRecord]:
        manifest = resumed_manifest(self._blobs, self._job_id)
        if manifest is None or manifest.arrow_schema is None:
            return {}
        schema = decode_schema(manifest.arrow_schema)
        return {part.name: PartRecord(part.bytes, int(part.xxh3, 16), schema) for part in manifest.parts if part.xxh3}

    def _name(self, name: str) -> str:
        return f"jobs/{self._job_id}/parts/{name}"


def keep_resumed_manifest(blobs: BlobStore, job_id: str, manifest: Manifest) -> None:
    """Store the manifest that a job resumes. Raises `StorageError`."""
    blobs.put(_resumed_name(job_id), manifest.to_json())


def resumed_manifest(blobs: BlobStore, job_id: str) -> Manifest | None:
    """Read the manifest that a job resumes; None if it resumes none. Raises `StorageError`."""
    name = _resumed_name(job_id)
    try:
        return Manifest.parse(blobs.get(name).to_pybytes(), name)
    except NotFound:
        return None


def _resumed_name(job_id: str) -> str:
    return f"jobs/{job_id}/resumes.json"
