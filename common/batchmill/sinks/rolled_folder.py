"""The output folder of a job over a stream: files appear in it when they are full, and none of them changes or goes.

1. `take`, at submit, takes an empty folder. No marker stays in it, since readers look into it at any moment: the file
   of `RollOwner`, beside it, names the job for as long as it runs.
2. `write_file` puts the files of a roll, `write_manifest` then lists them. Their names follow from the number of the
   roll: written again, each has the same rows. So a reader of the folder finds every row once, and so does one of the
   manifests.
3. `close` says that the job has ended. A job that begins where it was drained may then take the folder, and
   continues with the next number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill.errors import InvalidOutput, StorageError
from batchmill.sinks.manifest import ManifestPart
from batchmill.sinks.merged_file import write_merged
from batchmill.sinks.part_records import PartRecord
from batchmill.sinks.roll_owner import NAME, RollOwner

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pyarrow as pa

    from batchmill.sinks.manifest import Manifest
    from batchmill.sinks.manifest_file import ManifestFile
    from batchmill.sinks.output_folder import OutputFolder
    from batchmill.sinks.parts import FormatName
    from batchmill.storage.blobs import BlobStore


def roll_name(number: int) -> str:
    """Name a roll by its number. What a replay adds is called after the replay."""
    return f"{number:08}"


class RolledFolder:
    """An output folder that is written roll by roll. Safe to use from several threads and processes at once.

    store: the folder, as a blob store; manifests and folder are about the same one.
    """

    def __init__(self, store: BlobStore, manifests: ManifestFile, folder: OutputFolder, form: FormatName) -> None:
        self._store = store
        self._manifests = manifests
        self._folder = folder
        self._form = form
        self._before: RollOwner | None = None

    @property
    def uri(self) -> str:
        """The folder's path or URI."""
        return self._folder.location.uri

    def take(self, follows: str | None) -> None:
        """Take the folder for the job. follows: the drained job that it continues. Taking it again is fine.

        Raises `InvalidOutput` if it is not empty, is no folder, cannot be written, or is another job's.
        """
        try:
            self._take(follows)
        except StorageError as error:
            raise InvalidOutput(error.message, hint=error.hint, path=self.uri) from error

    def _take(self, follows: str | None) -> None:
        owner, own = RollOwner.read(self._rolls), self._folder.job_id
        if owner is not None and owner.job == own:
            return
        if owner is not None and (owner.is_open or owner.job != follows):
            raise self._taken(owner)
        if owner is None:
            self._folder.take_empty()
        else:
            self._folder.take()
        try:
            self._put(RollOwner(own, owner.rolls or 0 if owner else 0), owner)
        finally:
            self._folder.unmark()

    def _put(self, own: RollOwner, before: RollOwner | None) -> None:
        if before is not None:
            self._before = before
            self._rolls.put(NAME, own.to_bytes())
        elif not self._rolls.put_new(NAME, own.to_bytes()):
            other = RollOwner.read(self._rolls)
            if other is not None and other != own:
                raise self._taken(other)

    def release(self) -> None:
        """Undo `take`, for a job that was not submitted after all. Raises `StorageError`."""
        owner = RollOwner.read(self._rolls)
        if owner is None or owner.job != self._folder.job_id:
            return
        if self._before is not None:
            self._rolls.put(NAME, self._before.to_bytes())
            return
        self._manifests.delete_rolls()
        self._folder.remove_made_folder()

    def first_roll(self) -> int:
        """Return the number of the job's first roll. Raises `StorageError`, also if the folder is not the job's."""
        owner = RollOwner.read(self._rolls)
        if owner is None or owner.job != self._folder.job_id:
            raise StorageError(
                f"the output folder {self.uri} is no longer that of {self._folder.job_id}: "
                f"{self._rolls.location(NAME).uri} is gone or another job's.",
                hint="Somebody deleted or replaced it while the job ran; submit the job again.",
                path=self.uri,
            )
        return owner.first_roll

    def write_file(
        self, roll: str, number: int, schema: pa.Schema, tables: Iterable[pa.Table], rows: int
    ) -> ManifestPart:
        """Write a file of a roll, in place of the same one. rows: those of the tables. Raises `StorageError`.

        roll: `roll_name`. schema: of the file, without dictionaries. Raises `InvalidOutput` for rows that the format
        cannot hold.
        """
        name = f"part-{roll}-f{number + 1}.{self._form}"
        records: list[PartRecord] = []

        def fill(path: str) -> None:
            write_merged(self._form, path, schema, tables)
            records.append(PartRecord.of_file(path, schema))

        self._store.put_file(name, fill)
        return ManifestPart(name=name, rows=rows, bytes=records[0].nbytes, xxh3=records[0].xxh3)

    def write_manifest(self, roll: str, manifest: Manifest) -> None:
        """Write the manifest of a roll, whose files are written. Raises `StorageError`."""
        self._rolls.put(f"{roll}.json", manifest.to_json())

    def close(self, rolls: int) -> None:
        """End the job's writing. rolls: how many it has written. Closing it again is fine. Raises `StorageError`."""
        owner = RollOwner.read(self._rolls)
        if owner is not None and owner.job == self._folder.job_id and owner.is_open:
            self._store.delete_unfinished()
            self._rolls.put(NAME, RollOwner(owner.job, owner.first_roll, owner.first_roll + rolls).to_bytes())

    @property
    def _rolls(self) -> BlobStore:
        return self._manifests.rolls

    def _taken(self, owner: RollOwner) -> InvalidOutput:
        if owner.is_open:
            reason, hint = f"is taken by {owner.job}", "Choose another folder, or wait for the end of that job."
        else:
            reason = f"has the rolls of {owner.job}"
            hint = f"Choose another folder, or continue that job: source.start={owner.job!r}."
        return InvalidOutput(f"the output folder {self.uri} {reason}.", hint=hint, path=self.uri, job=owner.job)
