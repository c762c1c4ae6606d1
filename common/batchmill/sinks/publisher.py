"""What a user gets: the output of a job, taken at submit, published at the end, updated by replays.

`Publisher` is the contract; a job without an output has none. `FolderPublisher` implements it over a folder of part
files, into which workers write through `OutputResults`:

1. `prepare`, at submit, takes an empty folder for the job. `reopen` takes one whose unfinished results the job resumes.
2. Workers write one part for each attempt of a shard, and delete their own when they lose the race to commit.
3. `publish`, at the end, seals the folder, deletes all parts that are not in the manifest, writes the manifest, and
   removes the marker: from then on the folder has every row exactly once.
4. `replace_part`, by the leader, adds results before or after that; `update_manifest` makes those of replays count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from batchmill.errors import StorageError
from batchmill.jobs.shard import format_shard_id, parse_shard_id
from batchmill.sinks.manifest import MANIFEST, Manifest, ManifestPart

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pyarrow as pa

    from batchmill.jobs.shard import ShardId
    from batchmill.sinks.output_folder import OutputFolder
    from batchmill.sinks.result_store import PartFileDifference, PartFiles
    from batchmill.storage.blobs import BlobStore


class Publisher(Protocol):
    """The output of one job. Safe to use from several threads and processes at once."""

    @property
    def uri(self) -> str:
        """Name the output as its user did, for messages."""

    def prepare(self) -> None:
        """Take an unused output for the job. Taking it again is fine.

        Raises `InvalidOutput` if it is in use, cannot be written, or is another job's.
        """

    def reopen(self) -> None:
        """Take an output that an earlier job left unfinished. Raises as `prepare` does."""

    def release(self) -> None:
        """Undo `prepare` or `reopen`, for a job that was not submitted after all. Raises `StorageError`."""

    def published(self) -> Manifest | None:
        """Read the manifest of the output, of whichever job; None if it has none. Raises `StorageError`."""

    def part(self, shard_id: ShardId, token: int, rows: int, nbytes: int) -> ManifestPart:
        """Describe the results of a committed attempt for the manifest."""

    def published_instead(self, parts: Iterable[ManifestPart]) -> Mapping[ShardId, ManifestPart]:
        """Return, by shard, the published parts of shards whose part here was replaced and deleted.

        A ledger that is rolled back, to a stale replica for example, names such parts. Raises `StorageError`.
        """

    def publish(self, manifest: Manifest) -> None:
        """End the job's writing: what is not in the manifest goes, what is in it is the output.

        Calling it again, after it was cut short, is fine. Raises `StorageError` if results of the manifest are
        missing, or if the output is no longer this job's; then nothing was deleted.
        """

    def replace_part(self, shard_id: ShardId, token: int, table: pa.Table) -> int:
        """Write results of a shard as the leader, however far `publish` has come; a manifest makes them count.

        Returns their stored size in bytes. Raises `InvalidOutput`, or `StorageError`, too, if the output is no longer
        this job's.
        """

    def update_manifest(self, manifest: Manifest) -> None:
        """Replace the manifest of a published output, then delete what the new one does not have.

        Raises `StorageError` if results are missing, or if the output is no longer this job's; then nothing changed.
        """


class FolderPublisher:
    """A folder of part files with a manifest.

    store: the folder, as a blob store; `parts` and `folder` are about the same one.
    """

    def __init__(self, store: BlobStore, parts: PartFiles, folder: OutputFolder) -> None:
        self._store = store
        self._parts = parts
        self._folder = folder

    @property
    def uri(self) -> str:
        """The folder's path or URI."""
        return self._folder.location.uri

    def prepare(self) -> None:
        """See `Publisher`. A missing folder is made; any file in it, hidden ones included, refuses the job."""
        self._folder.take_empty()

    def reopen(self) -> None:
        """See `Publisher`."""
        self._folder.take()

    def release(self) -> None:
        """See `Publisher`. A folder that `prepare` made is removed."""
        self._folder.release()

    def published(self) -> Manifest | None:
        """See `Publisher`."""
        return self._folder.manifest()

    def part(self, shard_id: ShardId, token: int, rows: int, nbytes: int) -> ManifestPart:
        """See `Publisher`."""
        name = self._parts.name_of(shard_id, token)
        return ManifestPart(name=name, rows=rows, bytes=nbytes, shard=format_shard_id(shard_id))

    def published_instead(self, parts: Iterable[ManifestPart]) -> Mapping[ShardId, ManifestPart]:
        """See `Publisher`."""
        published = self._folder.own_parts()
        if not published:
            return {}
        wanted = {part.name: parse_shard_id(part.shard) for part in parts}
        gone = {wanted[name] for name in self._parts.compare(wanted).missing if name in wanted}
        return {shard_id: part for shard_id, part in published.items() if shard_id in gone}

    def publish(self, manifest: Manifest) -> None:
        """See `Publisher`. Files that are no parts are left alone."""
        if not self._folder.is_own():
            raise self._folder.not_own()
        self._folder.seal()
        self._store.delete_unfinished()
        for name in self._compare(manifest).extra:
            self._store.delete(name)
        self._store.put(MANIFEST, manifest.to_json())
        self._folder.unmark()

    def replace_part(self, shard_id: ShardId, token: int, table: pa.Table) -> int:
        """See `Publisher`."""
        if not self._folder.is_only_own():
            raise self._folder.not_own()
        return self._parts.write(shard_id, token, table)

    def update_manifest(self, manifest: Manifest) -> None:
        """See `Publisher`. The manifest changes first, so that each of its parts is there at any moment."""
        if not self._folder.is_published():
            raise self._folder.not_own()
        superseded = self._compare(manifest).extra
        self._store.put(MANIFEST, manifest.to_json())
        for name in superseded:
            self._store.delete(name)

    def _compare(self, manifest: Manifest) -> PartFileDifference:
        """Compare the folder with a manifest. Raises `StorageError` if a part is missing."""
        found = self._parts.compare(part.name for part in manifest.parts)
        if found.missing:
            raise StorageError(
                f"{len(found.missing)} files of the results are missing in {self.uri}, {found.missing[0]} first.",
                hint="Somebody deleted them while the job ran; submit the job again.",
                path=self.uri,
            )
        return found
