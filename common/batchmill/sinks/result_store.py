"""Where the results of a stage are stored, attempt by attempt: what the next stage and the result pages read.

`ResultStore` is the contract. An attempt is named by its shard and its token; whether its results count is for the
ledger to say, which is why a store may hold several attempts of one shard.

Implementations:

- `PartFiles`: a folder with one file for each attempt. The service keeps the results of a job without an output so.
- `OutputResults`: the same in the output folder of the job's user, so that nothing is copied when the job ends.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import pyarrow as pa

from batchmill.error_text import first_line
from batchmill.errors import DamagedData, NotFound, StaleToken
from batchmill.jobs.shard import format_shard_id, part_stem
from batchmill.sinks.manifest import ManifestPart
from batchmill.sinks.part_records import PartRecord
from batchmill.storage.seals import check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from batchmill.errors import StorageError
    from batchmill.jobs.shard import ShardId
    from batchmill.sinks.output_folder import OutputFolder
    from batchmill.sinks.part_records import PartRecords
    from batchmill.sinks.parts import PartFormat
    from batchmill.sinks.schema_log import SchemaLog
    from batchmill.storage.blobs import BlobStore

T = TypeVar("T")
_PART_FILE = re.compile(r"(_schemas/)?part-\d{8,}(\.\d+)*-[af]\d+\.(arrow|parquet|jsonl)")


class ResultStore(Protocol):
    """The results of one stage of one job. Safe to use from several threads and processes at once."""

    def write(self, shard_id: ShardId, token: int, table: pa.Table) -> int:
        """Write the results of an attempt, atomically; returns their stored size in bytes.

        Raises `InvalidOutput` for a table that cannot be stored, `StorageError` if writing fails, and `StaleToken` if
        the stage takes no more results; then nothing of the attempt is left.
        """

    def reopen(self) -> None:
        """Take results again, although the stage took no more: a ledger that was rolled back has lost the job's end.

        Raises `StorageError` if the results are no longer this job's.
        """

    def read(self, shard_id: ShardId, token: int) -> pa.Table:
        """Read the results of an attempt: the table that was written, with its schema.

        Raises `NotFound` if the attempt stored none, `StorageError` if they are damaged or cannot be reached.
        """

    def schema(self, shard_id: ShardId, token: int) -> pa.Schema:
        """Read the schema of what `read` returns, and no row. Raises as `read` does."""

    def delete(self, shard_id: ShardId, token: int) -> None:
        """Delete the results of an attempt; without any, do nothing. Raises `StorageError`."""

    def delete_all(self, attempts: Iterable[tuple[ShardId, int]]) -> None:
        """Delete the results of attempts, in few requests. Raises `StorageError`."""


@dataclass(frozen=True, slots=True)
class PartFileDifference:
    """How the files of a folder differ from those that it should have. Names are in order."""

    missing: tuple[str, ...]
    extra: tuple[str, ...]  # part files only; other files are not this job's to judge


class PartFiles:
    """A folder of part files, one for each attempt; the file's name is the attempt's own.

    store: the folder, as a blob store. schemas: of an output, whose parts all get one schema. records: of an output's
    parts.
    """

    def __init__(
        self,
        store: BlobStore,
        form: PartFormat,
        schemas: SchemaLog | None = None,
        records: PartRecords | None = None,
    ) -> None:
        self._store = store
        self._form = form
        self._schemas = schemas
        self._records = records

    def name_of(self, shard_id: ShardId, token: int) -> str:
        """Name the file of an attempt: "part-00000017-a2.parquet", "part-00000017.00000001-a2.parquet" once split."""
        return f"{part_stem(shard_id, token)}.{self._form.name}"

    def listed(self, shard_id: ShardId, token: int, rows: int, nbytes: int) -> ManifestPart:
        """Describe the file of an attempt for a manifest. Raises `StorageError`."""
        name = self.name_of(shard_id, token)
        record = self.record(name)
        xxh3 = None if record is None else record.xxh3
        return ManifestPart(name=name, rows=rows, bytes=nbytes, xxh3=xxh3, shard=format_shard_id(shard_id))

    def write(self, shard_id: ShardId, token: int, table: pa.Table) -> int:
        """See `ResultStore`. There is always room for one more attempt.

        The record is stored before the file is in its place, so that no file is without one.
        """
        if self._schemas is not None:
            table = self._schemas.widen(table)
        name = self.name_of(shard_id, token)

        def fill(path: str) -> None:
            self._form.encode(path, table)
            if self._records is not None:
                self.keep(name, PartRecord.of_file(path, table.schema))

        return self._store.put_file(name, fill)

    def reopen(self) -> None:
        """See `ResultStore`. It is never closed."""

    def read(self, shard_id: ShardId, token: int) -> pa.Table:
        """See `ResultStore`."""
        name = self.name_of(shard_id, token)
        data = self.data(name)
        schema = pa.schema([]) if self._form.has_schema else self._recorded_schema(name)
        return self._parse(name, lambda: self._form.decode(data, schema))

    def data(self, name: str) -> pa.Buffer:
        """Read the bytes of a file. Raises `NotFound`, `DamagedData` if they do not fit its record, `StorageError`."""
        data, record = self._store.get(name), self.record(name)
        if record is not None:
            check(data, record.nbytes, record.checksum, self._store.location(name).uri)
        return data

    def schema(self, shard_id: ShardId, token: int) -> pa.Schema:
        """See `ResultStore`."""
        name = self.name_of(shard_id, token)
        record = self.record(name)
        if record is not None:
            return record.schema
        if not self._form.has_schema:
            return self._recorded_schema(name)
        data = self._store.get(name)
        return self._parse(name, lambda: self._form.schema_in(data))

    def delete(self, shard_id: ShardId, token: int) -> None:
        """See `ResultStore`."""
        self.delete_file(self.name_of(shard_id, token))

    def delete_all(self, attempts: Iterable[tuple[ShardId, int]]) -> None:
        """See `ResultStore`."""
        names = [self.name_of(*attempt) for attempt in attempts]
        self._store.delete(*names)
        if self._records is not None:
            for name in names:
                self._records.delete(name)

    def delete_file(self, name: str) -> None:
        """Delete a file that `compare` named, and its record. Raises `StorageError`."""
        self._store.delete(name)
        if self._records is not None:
            self._records.delete(name)

    def compare(self, names: Iterable[str]) -> PartFileDifference:
        """Compare the folder with the part files that it should have, by name. Raises `StorageError`."""
        expected, present = set(names), set(self._store.list())
        kept = expected | {_older_schema_name(name) for name in expected}
        extra = (name for name in sorted(present - kept) if _PART_FILE.fullmatch(name))
        return PartFileDifference(tuple(sorted(expected - present)), tuple(extra))

    def keep(self, name: str, record: PartRecord) -> None:
        """Store what is known of a file, before it is in its place. Raises `StorageError`."""
        if self._records is not None:
            self._records.put(name, record)

    def record(self, name: str) -> PartRecord | None:
        """Read what is known of a file; None for one that an earlier version wrote. Raises `StorageError`."""
        return None if self._records is None else self._records.get(name)

    def _recorded_schema(self, name: str) -> pa.Schema:
        """Return the schema of a file that does not hold it; earlier versions wrote it into a folder."""
        record = self.record(name)
        if record is not None:
            return record.schema
        try:
            data = self._store.get(_older_schema_name(name))
        except NotFound as error:
            raise self._unreadable(name, error) from error
        return self._parse(name, lambda: pa.ipc.read_schema(data))

    def _parse(self, name: str, parse: Callable[[], T]) -> T:
        try:
            return parse()
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: Exception) -> DamagedData:
        place = self._store.location(name).uri
        cause = first_line(error)
        return DamagedData(
            f"could not read {place}: {cause.rstrip('.')}.", hint="It was changed or damaged.", path=place
        )


def _older_schema_name(name: str) -> str:
    return f"_schemas/{name.rpartition('.')[0]}.arrow"


class OutputResults:
    """Part files in an output folder, which is marked as the job's own until its results are published.

    A part that a replay replaced is deleted, as every file of the folder counts. A ledger that is rolled back names it
    once more: then the part of the folder's manifest is read, which has all its rows.
    """

    def __init__(self, parts: PartFiles, folder: OutputFolder) -> None:
        self._parts = parts
        self._folder = folder

    def write(self, shard_id: ShardId, token: int, table: pa.Table) -> int:
        """See `ResultStore`. Raises `StorageError`, too, if the folder is no longer this job's.

        The marker is read after the write: a part that arrives while the results are being published is either seen
        by `publish`, which deletes it, or finds the marker changed, and is deleted here.
        """
        nbytes = self._parts.write(shard_id, token, table)
        if not self._folder.is_open():
            self._parts.delete(shard_id, token)
            raise self._closed()
        return nbytes

    def reopen(self) -> None:
        """See `ResultStore`. The manifest stays until the next one replaces it."""
        self._folder.reopen()

    def read(self, shard_id: ShardId, token: int) -> pa.Table:
        """See `ResultStore`."""
        try:
            return self._parts.read(shard_id, token)
        except NotFound:
            return self._parts.read(shard_id, self._published(shard_id, token))

    def schema(self, shard_id: ShardId, token: int) -> pa.Schema:
        """See `ResultStore`."""
        try:
            return self._parts.schema(shard_id, token)
        except NotFound:
            return self._parts.schema(shard_id, self._published(shard_id, token))

    def delete(self, shard_id: ShardId, token: int) -> None:
        """See `ResultStore`."""
        self._parts.delete(shard_id, token)

    def delete_all(self, attempts: Iterable[tuple[ShardId, int]]) -> None:
        """See `ResultStore`."""
        self._parts.delete_all(attempts)

    def _published(self, shard_id: ShardId, token: int) -> int:
        """Return the token of the shard's part in the manifest; without one, the same token."""
        part = self._folder.own_parts().get(shard_id)
        return token if part is None else part.token

    def _closed(self) -> StaleToken | StorageError:
        if self._folder.is_own():
            job_id = self._folder.job_id
            return StaleToken(f"the results of {job_id} are published; a part that arrived later was deleted.")
        return self._folder.not_own()
