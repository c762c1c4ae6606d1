"""What a user gets: the output of a job, taken at submit, published at the end, updated by replays.

`Publisher` is the contract; a job without an output has none. `SizedFolderPublisher` and `FilePublisher` merge parts
that are kept in the service. `FolderPublisher` implements it over a folder of part files, into which workers write
through `OutputResults`:

1. `prepare`, at submit, takes an empty folder for the job. `reopen` takes one whose unfinished results the job resumes.
2. Workers write one part for each attempt of a shard, and delete their own when they lose the race to commit.
3. `publish`, at the end, seals the folder, deletes all parts that are not in the manifest, writes the manifest, and
   removes the marker: from then on the folder has every row exactly once.
4. `replace_part`, by the leader, adds results before or after that; `update_manifest` makes those of replays count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from batchmill.errors import StorageError
from batchmill.jobs.shard import parse_shard_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pyarrow as pa

    from batchmill.jobs.shard import ShardId
    from batchmill.sinks.manifest import Manifest, ManifestPart
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

    def adopt(self, manifest: Manifest) -> None:
        """Make the results of the output that the job resumes its own; again is fine. Raises `StorageError`."""

    def published(self) -> Manifest | None:
        """Read the manifest of the output, of whichever job; None if it has none. Raises `StorageError`."""

    def part(self, shard_id: ShardId, token: int, rows: int, nbytes: int) -> ManifestPart:
        """Describe the results of a committed attempt for the manifest. Raises `StorageError`."""

    def published_instead(self, parts: Iterable[ManifestPart]) -> Mapping[ShardId, ManifestPart]:
        """Return, by shard, the published parts of shards whose part here was replaced and deleted.

        A ledger that is rolled back, to a stale replica for example, names such parts. Raises `StorageError`.
        """

    def is_intact(self) -> bool:
        """Whether what was published, if it is no results that the service reads, is as it was written.

        Raises `StorageError`.
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

    def adopt(self, manifest: Manifest) -> None:
        """See `Publisher`. They are where the job's own will be."""

    def published(self) -> Manifest | None:
        """See `Publisher`."""
        return self._folder.manifest()

    def part(self, shard_id: ShardId, token: int, rows: int, nbytes: int) -> ManifestPart:
        """See `Publisher`."""
        return self._parts.listed(shard_id, token, rows, nbytes)

    def published_instead(self, parts: Iterable[ManifestPart]) -> Mapping[ShardId, ManifestPart]:
        """See `Publisher`."""
        published = self._folder.own_parts()
        if not published:
            return {}
        wanted = {part.name: parse_shard_id(part.shard) for part in parts if part.shard is not None}
        gone = {wanted[name] for name in self._parts.compare(wanted).missing if name in wanted}
        return {shard_id: part for shard_id, part in published.items() if shard_id in gone and part.name not in wanted}

    def is_intact(self) -> bool:
        """See `Publisher`. The parts are the results themselves."""
        return True

    def publish(self, manifest: Manifest) -> None:
        """See `Publisher`. Files that are no parts are left alone."""
        if not self._folder.is_own():
            raise self._folder.not_own()
        self._folder.seal()
        self._store.delete_unfinished()
        for name in self._compare(manifest).extra:
            self._parts.delete_file(name)
        self._folder.write_manifest(manifest)
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
        self._folder.write_manifest(manifest)
        for name in superseded:
            self._parts.delete_file(name)

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
