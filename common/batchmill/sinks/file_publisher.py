"""The output of a job as one file: its parts are kept in the service, and merged when the job has completed.

1. `prepare`, at submit, puts a marker beside the file, `NAME.batchmill.json`, that names the job.
2. Workers write parts into the blob store, as for a job without an output; result pages read them there.
3. `publish` writes the parts, one after another, into a file under another name and puts it in place in one step, then
   removes the marker. So the file is absent or complete, and doing it again changes nothing. A job that has not
   completed leaves no file.
4. `update_manifest`, after a replay, replaces the file in the same way.

Parts that do not count stay in the service until the job is deleted: a ledger that is rolled back may name them again.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.errors import InvalidOutput, NotFound, StorageError
from batchmill.jobs.job import JobState
from batchmill.jobs.shard import parse_shard_id
from batchmill.sinks.manifest import Manifest, ManifestPart
from batchmill.sinks.merged_file import write_merged
from batchmill.sinks.part_records import PartRecord
from batchmill.storage.blobs import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from batchmill.jobs.shard import ShardId
    from batchmill.sinks.manifest import Manifest, ManifestPart
    from batchmill.sinks.parts import FormatName
    from batchmill.sinks.result_store import PartFiles
    from batchmill.storage.blobs import BlobStore

_RECORD = "_file"  # its name among the records of the parts: no part is called so


class FilePublisher:
    """One file as a job's output; see `Publisher`.

    folder: that of the file, as a blob store. name: the file's. parts: in the service.
    """

    def __init__(self, folder: BlobStore, name: str, form: FormatName, parts: PartFiles, job_id: str) -> None:
        self._folder = folder
        self._name = name
        self._form = form
        self._parts = parts
        self._job_id = job_id
        self._marker = f"{name}.batchmill.json"

    @property
    def uri(self) -> str:
        """The file's path or URI."""
        return self._folder.location(self._name).uri

    def prepare(self) -> None:
        """See `Publisher`. The file must not exist."""
        try:
            if self._folder.exists(self._name):
                raise InvalidOutput(
                    f"the output file {self.uri} exists.", hint="Choose a new name, or delete it.", path=self.uri
                )
            taken = self._folder.put_new(self._marker, json.dumps({"job": self._job_id}).encode())
        except StorageError as error:
            raise InvalidOutput(error.message, hint=error.hint, path=self.uri) from error
        if not taken and not self._is_own():
            raise InvalidOutput(
                f"the output file {self.uri} is taken by another job.",
                hint=f"Choose another name; if that job is gone, delete {self._marker} beside it.",
                path=self.uri,
            )

    def reopen(self) -> None:
        """See `Publisher`. A file is never unfinished, so that there is nothing to resume."""
        self.prepare()

    def release(self) -> None:
        """See `Publisher`."""
        if self._is_own():
            self._folder.delete(self._marker)

    def adopt(self, manifest: Manifest) -> None:
        """See `Publisher`. There is nothing to resume."""

    def published(self) -> Manifest | None:
        """See `Publisher`. A file has no manifest."""
        return None

    def part(self, shard_id: ShardId, token: int, rows: int, nbytes: int) -> ManifestPart:
        """See `Publisher`."""
        return self._parts.listed(shard_id, token, rows, nbytes)

    def published_instead(
        self,
        parts: Iterable[ManifestPart],  # noqa: ARG002  # see `Publisher`
    ) -> Mapping[ShardId, ManifestPart]:
        """See `Publisher`. No part is ever deleted."""
        return {}

    def is_intact(self) -> bool:
        """See `Publisher`. The file is read. Of one that an earlier version wrote, only whether it exists is known."""
        record = self._parts.record(_RECORD)
        if record is None:
            return self._folder.exists(self._name)
        try:
            return self._folder.checksum(self._name) == (record.nbytes, record.checksum)
        except NotFound:
            return False

    def publish(self, manifest: Manifest) -> None:
        """See `Publisher`. Only a completed job gets its file."""
        if not self._is_own():
            if manifest.state is JobState.COMPLETED and not self._folder.exists(self._name):
                raise StorageError(
                    f"the output file {self.uri} is no longer that of {self._job_id}: its {self._marker} is gone.",
                    hint="Submit the job again.",
                    path=self.uri,
                )
            return
        self._folder.delete_unfinished()
        if manifest.state is JobState.COMPLETED:
            self._merge(manifest)
        self._folder.delete(self._marker)

    def replace_part(self, shard_id: ShardId, token: int, table: pa.Table) -> int:
        """See `Publisher`."""
        return self._parts.write(shard_id, token, table)

    def update_manifest(self, manifest: Manifest) -> None:
        """See `Publisher`. A file that was moved away is written again."""
        if manifest.state is JobState.COMPLETED:
            self._merge(manifest)

    def _merge(self, manifest: Manifest) -> None:
        found = self._parts.compare(part.name for part in manifest.parts)
        if found.missing:
            raise StorageError(
                f"{len(found.missing)} files of the results are missing in the blob store, {found.missing[0]} first.",
                hint="Submit the job again.",
                path=self.uri,
            )
        schema = self._schema(manifest)

        def fill(path: str) -> None:
            write_merged(self._form, path, schema, self._tables(manifest))
            self._parts.keep(_RECORD, PartRecord.of_file(path, schema or pa.schema([])))

        with storage_errors("write", self._folder.location(self._name)):
            self._folder.put_file(self._name, fill)

    def _schema(self, manifest: Manifest) -> pa.Schema | None:
        """Return the schema of the parts, which have one; None without parts."""
        return next((table.schema for table in self._tables(manifest)), None)

    def _tables(self, manifest: Manifest) -> Iterator[pa.Table]:
        for part in manifest.parts:
            yield self._parts.read(parse_shard_id(part.shard or ""), part.token)

    def _is_own(self) -> bool:
        try:
            return bool(json.loads(bytes(self._folder.get(self._marker)))["job"] == self._job_id)
        except (NotFound, ValueError, TypeError, KeyError):
            return False
