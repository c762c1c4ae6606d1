"""The output folder of a job: taken by a marker file, `_batchmill.json`, that names the job.

1. `take_empty` puts the marker into an empty or missing folder; `take` into one whose results another job left.
2. While the marker says "open", workers write parts. Each looks at the marker after its write.
3. `seal` changes the marker, so that no late part stays; `unmark` deletes it, when the manifest is written.
4. `reopen` puts it back, for a job whose end the ledger has lost.

A folder that a job over a stream has taken (`RolledFolder`) has no marker; `RollOwner` beside it says whose it is.

A folder whose marker is gone is still this job's if its manifest names the job. A manifest beside a folder from which
the parts were deleted is that of no results: the next job deletes it.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from pyarrow import fs

from batchmill.errors import InvalidOutput, NotFound, StorageError
from batchmill.jobs.shard import parse_shard_id
from batchmill.sinks.roll_owner import RollOwner
from batchmill.storage.blobs import storage_errors
from batchmill.storage.disk import is_unfinished

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.jobs.shard import ShardId
    from batchmill.sinks.manifest import Manifest, ManifestPart
    from batchmill.sinks.manifest_file import ManifestFile
    from batchmill.storage.blobs import BlobStore
    from batchmill.storage.locations import Location

MARKER = "_batchmill.json"
_SHOWN_ENTRIES = 3


class OutputFolder:
    """A folder, and whose results it has. Safe to use from several threads and processes at once."""

    def __init__(self, store: BlobStore, manifests: ManifestFile, job_id: str) -> None:
        self.job_id = job_id
        self._manifests = manifests
        self._store = store
        self._made_folder = False

    @property
    def location(self) -> Location:
        """Where the folder is."""
        return self._store.root

    def take_empty(self) -> None:
        """Take the folder for the job; a missing one is made. Taking it again is fine.

        Raises `InvalidOutput` if it is not empty, is no folder, cannot be written, or is another job's.
        """
        try:
            self._refuse_entries()
            self._refuse_rolled()
            before = self._manifests.read()
            self._manifests.check_writable()
        except StorageError as error:
            raise self._unusable(error) from error
        self.take()
        if before is not None and before.job != self.job_id:
            self._manifests.delete()

    def take(self) -> None:
        """Take the folder, whatever files it has.

        Raises `InvalidOutput` if it cannot be written or is another job's.
        """
        try:
            taken = self._store.put_new(MARKER, _marker(self.job_id))
            owner = self._owner()
        except StorageError as error:
            self.remove_made_folder()
            raise self._unusable(error) from error
        if not taken and owner != self.job_id:
            raise InvalidOutput(
                f"the output folder {self.location.uri} is taken by {owner or 'another job'}.",
                hint=f"Choose another folder; if that job is gone, delete {MARKER} in it.",
                path=self.location.uri,
                job=owner,
            )

    def release(self) -> None:
        """Undo `take_empty` or `take`, while nothing is published; a folder of another job is left alone."""
        if self.is_open():
            self.unmark()
            self.remove_made_folder()

    def remove_made_folder(self) -> None:
        """Delete the folder if `take_empty` made it and it is empty."""
        if self._made_folder:
            # It was never made, or somebody put something into it.
            with suppress(OSError), self.location.anchored() as path:
                path.rmdir()

    def is_open(self) -> bool:
        """Whether the job has taken the folder and its results are not being published yet. Raises `StorageError`."""
        return self._marker() == _marker(self.job_id)

    def is_own(self) -> bool:
        """Whether the folder is the job's: taken by it, or with its results. Raises `StorageError`."""
        return self._owner() == self.job_id or self._has_own_manifest()

    def is_only_own(self) -> bool:
        """Whether the folder is the job's, and no other job has taken it since. Raises `StorageError`."""
        owner = self._owner()
        return owner == self.job_id or (not owner and self._has_own_manifest())

    def is_published(self) -> bool:
        """Whether the folder has the job's results and nobody has taken it since. Raises `StorageError`."""
        return not self._owner() and self._has_own_manifest()

    def seal(self) -> None:
        """Let no more parts in. Raises `StorageError`."""
        self._store.put(MARKER, _marker(self.job_id, sealed=True))

    def reopen(self) -> None:
        """Let parts in again. Raises `StorageError`, also if the folder is no longer the job's."""
        if not self.is_only_own():
            raise self.not_own()
        self._store.put(MARKER, _marker(self.job_id))

    def unmark(self) -> None:
        """Delete the marker. Raises `StorageError`."""
        self._store.delete(MARKER)

    def manifest(self) -> Manifest | None:
        """Read the manifest of the folder, of whichever job; None if there is none. Raises `StorageError`."""
        manifest = self._manifests.read()
        if manifest is not None and (manifest.parts or manifest.rest is None) and not self._entries():
            return None
        return manifest

    def write_manifest(self, manifest: Manifest) -> None:
        """Write or replace the manifest of the folder. Raises `StorageError`."""
        self._manifests.write(manifest)

    def own_parts(self) -> Mapping[ShardId, ManifestPart]:
        """Return the parts of the job's own manifest by shard; none if the folder has none. Raises `StorageError`."""
        manifest = self.manifest()
        if manifest is None or manifest.job != self.job_id:
            return {}
        return {parse_shard_id(part.shard): part for part in manifest.parts if part.shard is not None}

    def not_own(self) -> StorageError:
        """Make the error for a folder that is no longer the job's."""
        return StorageError(
            f"the output folder {self.location.uri} is no longer that of {self.job_id}: its {MARKER} is gone.",
            hint="Somebody emptied or replaced the folder while the job ran; submit the job again.",
            path=self.location.uri,
        )

    def _unusable(self, error: StorageError) -> InvalidOutput:
        return InvalidOutput(error.message, hint=error.hint, path=self.location.uri)

    def _has_own_manifest(self) -> bool:
        manifest = self._manifests.read()
        return manifest is not None and manifest.job == self.job_id

    def _refuse_entries(self) -> None:
        location = self.location
        with storage_errors("look into", location):
            kind = location.look_up().type
        if kind not in (fs.FileType.Directory, fs.FileType.NotFound):
            raise InvalidOutput(
                f"the output {location.uri} is a file.", hint="Expected a folder, empty or missing.", path=location.uri
            )
        self._made_folder = location.is_local and kind == fs.FileType.NotFound
        entries = [] if self._owner() else self._entries()
        if entries:
            more = len(entries) - _SHOWN_ENTRIES
            shown = ", ".join(entries[:_SHOWN_ENTRIES]) + (f" and {more} more" if more > 0 else "")
            raise InvalidOutput(
                f"the output folder {location.uri} is not empty: it has {shown}.",
                hint="Choose a new folder, or empty this one.",
                path=location.uri,
                entries=entries[:_SHOWN_ENTRIES],
            )

    def _refuse_rolled(self) -> None:
        owner = RollOwner.read(self._manifests.rolls)
        if owner is not None and owner.is_open and owner.job != self.job_id:
            raise InvalidOutput(
                f"the output folder {self.location.uri} is taken by {owner.job}.",
                hint="Choose another folder.",
                path=self.location.uri,
                job=owner.job,
            )

    def _entries(self) -> list[str]:
        with storage_errors("list", self.location):
            names = sorted(info.base_name for info in self.location.entries())
        return [name for name in names if not is_unfinished(name)]

    def _marker(self) -> bytes:
        try:
            return bytes(self._store.get(MARKER))
        except NotFound:
            return b""

    def _owner(self) -> str:
        """Return the job that the marker names; "" without a marker."""
        try:
            return str(json.loads(self._marker())["job"])
        except (ValueError, TypeError, KeyError):
            return ""


def _marker(job_id: str, *, sealed: bool = False) -> bytes:
    return json.dumps({"job": job_id, "state": "sealed" if sealed else "open"}).encode()
