"""A sink: the folder of a job's results.

1. `prepare`, at submit, takes an empty folder for the job: the marker `_batchmill.json` names it.
2. Workers `write` parts, one for each attempt of a shard, and delete their own when they lose the race to commit.
   A part that comes after `publish` began is taken back by its writer, who finds the marker sealed or gone.
3. `publish`, at the end, seals the marker, deletes all parts that are not in the manifest, writes the manifest, and
   removes the marker: from then on the folder holds every row exactly once.

The sink of a job without an output is a folder of the blob store. Nobody else writes there and nobody reads it
without the manifest, so it has no marker.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pyarrow import fs

from batchmill.errors import InvalidOutput, NotFound, StaleToken, StorageError
from batchmill.sinks.manifest import MANIFEST, Manifest
from batchmill.sinks.parts import FormatName, PartFormat, part_format
from batchmill.storage.blobs import BlobStore, storage_errors

if TYPE_CHECKING:
    import pyarrow as pa

    from batchmill.job import OutputSpec
    from batchmill.shard import ShardId
    from batchmill.storage.locations import Location, Locations

MARKER = "_batchmill.json"
_OWN = re.compile(r"(_schemas/)?part-\d{8,}(\.\d+)*-a\d+\.(arrow|parquet|jsonl)")


@dataclass(frozen=True, slots=True)
class Part:
    """A file of results: the rows of one attempt of one shard."""

    name: str  # in the sink's folder
    rows: int
    bytes: int


class Sink:
    """A folder and a form for the results of one job. May be used by several threads and processes at once.

    store: the folder, as a blob store.
    guarded: whether the folder is a user's, and taken for the job by a marker.
    """

    def __init__(self, store: BlobStore, form: PartFormat, job_id: str, *, guarded: bool) -> None:
        self._store = store
        self._form = form
        self._job_id = job_id
        self._guarded = guarded
        self._made_folder = False

    @property
    def format(self) -> FormatName:
        """The form of the parts."""
        return self._form.name

    @property
    def location(self) -> Location:
        """The folder."""
        return self._store.root

    def part_name(self, shard_id: ShardId, token: int) -> str:
        """The name of the part of an attempt: "part-00000017-a2.parquet", "part-00000017.1-a2.parquet"."""
        path = ".".join([f"{shard_id[0]:08}", *map(str, shard_id[1:])])
        return f"part-{path}-a{token}.{self._form.name}"

    def write(self, shard_id: ShardId, token: int, table: pa.Table) -> Part:
        """Write the results of an attempt, atomically; the name is the attempt's own.

        Raises `InvalidOutput` for a table that the form cannot hold, `StorageError` if writing fails or the folder
        is no longer this job's, and `StaleToken` if the results were published meanwhile; nothing is left then.
        """
        name = self.part_name(shard_id, token)
        size = self._form.write(self._store, name, table)
        if self._guarded and self._marker() != _marker(self._job_id):
            self.delete(name)
            raise self._closed()
        return Part(name, table.num_rows, size)

    def read(self, name: str) -> pa.Table:
        """The table of a part. Raises `NotFound` if there is none of that name, `StorageError` for a broken one."""
        return self._form.read(self._store, name)

    def delete(self, name: str) -> None:
        """Delete a part; a missing one is fine."""
        for file in self._form.files(name):
            self._store.delete(file)

    def prepare(self) -> None:
        """Take the folder for the job; a missing one is made. Taking it again is fine.

        Raises `InvalidOutput` if it holds anything, is no folder, cannot be written, or is another job's.
        """
        if not self._guarded:
            return
        try:
            self._refuse_entries()
            self._take()
        except StorageError as error:
            raise InvalidOutput(error.message, hint=error.hint, path=self.location.uri) from error

    def retake(self) -> None:
        """Take a folder with a published output for a job that goes on with it. Raises as `prepare`."""
        try:
            self._take()
        except StorageError as error:
            raise InvalidOutput(error.message, hint=error.hint, path=self.location.uri) from error

    def published(self) -> Manifest | None:
        """The manifest in the folder, whosever it is; None when there is none. Raises `StorageError`."""
        try:
            return Manifest.read(self.location)
        except NotFound:
            return None

    def release(self) -> None:
        """Undo `prepare`, for a job that was not submitted after all."""
        if self._guarded and self._marker() == _marker(self._job_id):
            self._store.delete(MARKER)
            self._remove_made_folder()

    def publish(self, manifest: Manifest) -> None:
        """End the job's writing: delete every part that is not in the manifest, then write the manifest.

        Calling it again, after it was cut short, is fine. Raises `StorageError` if a part of the manifest is
        missing, or if the folder is no longer this job's; then nothing was deleted.
        """
        if self._guarded:
            self._refuse_foreign_folder()
            self._store.put(MARKER, _marker(self._job_id, sealed=True))
        self._store.delete_unfinished()
        for name in self._superseded(manifest):
            self._store.delete(name)
        self._store.put(MANIFEST, manifest.to_json())
        if self._guarded:
            self._store.delete(MARKER)

    def amend(self, shard_id: ShardId, token: int, table: pa.Table) -> Part:
        """Write a new part beside the published ones; `republish` lets it count. Raises as `write` does."""
        self._require_published()
        name = self.part_name(shard_id, token)
        return Part(name, table.num_rows, self._form.write(self._store, name, table))

    def republish(self, manifest: Manifest) -> None:
        """Replace the manifest of a finished output, then delete the parts that the new one does not have.

        Raises `StorageError` if a part is missing, or if the folder is no longer this job's; then nothing changed.
        """
        self._require_published()
        superseded = self._superseded(manifest)
        self._store.put(MANIFEST, manifest.to_json())
        for name in superseded:
            self._store.delete(name)

    def _require_published(self) -> None:
        if self._guarded and (self._owner() or not self._is_published()):
            raise self._foreign()

    def _superseded(self, manifest: Manifest) -> list[str]:
        """The parts in the folder that the manifest does not have. Raises `StorageError` if one is missing."""
        needed = {file for part in manifest.parts for file in self._form.files(part.name)}
        present = set(self._store.list())
        self._refuse_missing(sorted(needed - present))
        return [name for name in sorted(present - needed) if _OWN.fullmatch(name)]

    def _refuse_entries(self) -> None:
        location = self.location
        with storage_errors("look into", location):
            kind = location.filesystem.get_file_info(location.path).type
        if kind not in (fs.FileType.Directory, fs.FileType.NotFound):
            raise InvalidOutput(
                f"the output {location.uri} is a file.", hint="Expected a folder, empty or missing.", path=location.uri
            )
        self._made_folder = location.is_local and kind == fs.FileType.NotFound
        entries = [] if self._owner() else self._entries()
        if entries:
            shown = ", ".join(entries[:3]) + (f" and {len(entries) - 3} more" if len(entries) > 3 else "")
            raise InvalidOutput(
                f"the output folder {location.uri} is not empty: {shown}.",
                hint="Choose a new folder, or empty this one.",
                path=location.uri,
                entries=entries[:3],
            )

    def _take(self) -> None:
        try:
            taken = self._store.put_new(MARKER, _marker(self._job_id))
        except StorageError:
            self._remove_made_folder()
            raise
        owner = self._owner()
        if not taken and owner != self._job_id:
            raise InvalidOutput(
                f"the output folder {self.location.uri} is taken by {owner or 'another job'}.",
                hint=f"Choose another folder; if that job is gone, delete {MARKER} in it.",
                path=self.location.uri,
                job=owner,
            )

    def _remove_made_folder(self) -> None:
        if self._made_folder:
            with suppress(OSError):  # it was never made, or somebody put something into it
                Path(self.location.path).rmdir()

    def _entries(self) -> list[str]:
        location = self.location
        selector = fs.FileSelector(location.path, allow_not_found=True)
        with storage_errors("list", location):
            return sorted(info.base_name for info in location.filesystem.get_file_info(selector))

    def _marker(self) -> bytes:
        try:
            return bytes(self._store.get(MARKER))
        except NotFound:
            return b""

    def _owner(self) -> str:
        """The job that the marker names; "" without a marker."""
        try:
            return str(json.loads(self._marker())["job"])
        except (ValueError, TypeError, KeyError):
            return ""

    def _is_published(self) -> bool:
        manifest = self.published()
        return manifest is not None and manifest.job == self._job_id

    def _closed(self) -> StaleToken | StorageError:
        if self._owner() == self._job_id or self._is_published():
            return StaleToken(f"the results of {self._job_id} are published; a late part was taken back.")
        return self._foreign()

    def _foreign(self) -> StorageError:
        return StorageError(
            f"the output folder {self.location.uri} is no longer that of {self._job_id}: its {MARKER} is gone.",
            hint="Somebody emptied or replaced the folder while the job ran; submit the job again.",
            path=self.location.uri,
        )

    def _refuse_foreign_folder(self) -> None:
        if self._owner() != self._job_id and not self._is_published():
            raise self._foreign()

    def _refuse_missing(self, names: list[str]) -> None:
        if names:
            raise StorageError(
                f"{len(names)} files of the results are missing in {self.location.uri}, {names[0]} first.",
                hint="Somebody deleted them while the job ran; submit the job again.",
                path=self.location.uri,
            )


def open_sink(output: OutputSpec | None, job_id: str, blobs: BlobStore, locations: Locations) -> Sink:
    """The sink of a job: the folder it asked for, else Arrow files in the blob store.

    Raises `InvalidOutput` for a malformed path or one outside the roots.
    """
    if output is None:
        store = BlobStore(blobs.location(f"jobs/{job_id}/results"))
        return Sink(store, part_format("arrow"), job_id, guarded=False)
    store = BlobStore(locations.resolve(output.path, error=InvalidOutput))
    return Sink(store, part_format(output.format), job_id, guarded=True)


def _marker(job_id: str, *, sealed: bool = False) -> bytes:
    return json.dumps({"job": job_id, "state": "sealed" if sealed else "open"}).encode()
