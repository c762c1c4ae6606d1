"""A watched folder as the source of a job without an end: its files are read as they appear, each once.

1. A file is ready once it has not changed for `ready_after_s`, or once a file with its name and the marker is there.
2. The files are numbered as they are taken. The ledger has the number of each name, for as long as the folder has the
   name. An offset is such a number and a cursor in the file: "3:…". A name whose number is behind the offset was
   noted by a planner that did not get further: it is not taken.
3. A job that begins with new files, or continues another job, has a list of the names that it does not read. The file
   that the other job was reading is its file 1, from where that one stopped.
4. A file is described before it is read, as any source is, in a process that may die. The description is kept until its
   rows are settled. A file that cannot be described is one bad row, as is the rest of one that changes while it is
   planned; rows that are planned and gone are bad rows. So no file ends the job. A folder that vanishes with all its
   files does not count as that (`watched_place`).
"""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import pyarrow as pa
from pyarrow import fs

from batchmill.errors import InvalidSource, NotFound, StorageError, StreamUnavailable
from batchmill.jobs.shard import Slice
from batchmill.jobs.streams.offsets import OffsetRange, PartitionOffset, StreamOffsets
from batchmill.sources.base import (
    BadRow,
    EndlessSource,
    InputSplit,
    NextSplit,
    NotYet,
    RowsRead,
    Splitter,
    Survey,
    join_rows,
)
from batchmill.sources.schemas import conform
from batchmill.stage_results import joined
from batchmill.streams.base import BAD_FILE
from batchmill.streams.watched_place import WatchedPlace

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from batchmill.clock import Clock
    from batchmill.jobs.files import FileSource
    from batchmill.jobs.streams.source import Folder
    from batchmill.ledger.streams import StreamLedger
    from batchmill.sources.base import Source
    from batchmill.sources.description import SourceDescription
    from batchmill.storage.blobs import BlobStore
    from batchmill.workspace import Workspace

MAX_FILES = 100_000
"""In the folder: delete those that are read, or watch a folder for each day."""

BEGINNING = "0:"
AT_FAULT = "!"
"""In place of a cursor: the file, or the rest of it, cannot be read."""

ANY_TIME = 0
"""In place of the time of a file, in nanoseconds since the epoch: it is not read, whenever it was changed."""


class FileInspector(Protocol):
    """Reads users' files in other processes; workers, which only read what was described, have none."""

    def describe(self, source: FileSource) -> SourceDescription:
        """Describe files. Raises `InvalidSource`."""
        ...

    def apart(self, name: str, source: Source) -> Source:
        """Return a source that is described under a name, of which nothing is read in this process."""
        ...


class WatchedFolder(EndlessSource):
    """The files of a folder. Thread-safe. inspector: None where nothing new is read."""

    schema = pa.schema([])

    def __init__(
        self,
        job_id: str,
        spec: Folder,
        workspace: Workspace,
        ledger: StreamLedger,
        inspector: FileInspector | None,
        clock: Clock,
    ) -> None:
        self._job_id = job_id
        self._spec = spec
        self._workspace = workspace
        self._ledger = ledger
        self._inspector = inspector
        self._clock = clock

    def first_cursor(self) -> str:
        """See `EndlessSource`: the only partition is called after the job, whose numbers its offsets are.

        With the start `new`, it stores which files are there.
        """
        if self._spec.start == "new":
            self._put_known({info.base_name: info.mtime_ns or 0 for info in self._entries(())})
        return self._cursor_at(BEGINNING)

    def follow(self, earlier: str, savepoint: str) -> str:
        """Return where the job begins if it continues another one, over the same folder.

        earlier: that job. savepoint: how far it was planned. Raises `NotFound` if what it knew of the folder is gone.
        """
        number, at = _parse(StreamOffsets.parse(savepoint).partitions[earlier].after)
        blobs, taken = self._workspace.blobs, self._ledger.files_of(earlier)
        self._put_known(_known(blobs, earlier) | {name: ANY_TIME for name, one in taken.items() if one <= number})
        if number == 0:
            return self._cursor_at(BEGINNING)
        before, own = f"jobs/{earlier}/files/{number}", f"jobs/{self._job_id}/files/1"
        described = [name for name in blobs.list(before) if name.rpartition("/")[0] == before]
        if not described:
            raise NotFound(f"it is not known any more which file job {earlier} has read last.")
        for name in described:
            blobs.put(f"{own}/{name.rpartition('/')[2]}", blobs.get(name))
        return self._cursor_at(f"1:{at}")

    def _cursor_at(self, offset: str) -> str:
        return StreamOffsets({self._job_id: PartitionOffset(offset)}).write()

    def _put_known(self, known: Mapping[str, int]) -> None:
        self._workspace.blobs.put(_known_name(self._job_id), json.dumps(known).encode())

    @cached_property
    def _known(self) -> Mapping[str, int]:
        return _known(self._workspace.blobs, self._job_id)

    def splitter(self, cursor: str = "") -> Splitter:
        """See `Source`."""
        return _FolderSplitter(self, StreamOffsets.parse(cursor or self._spec.offsets), self._job_id, self._clock)

    def read(self, slices: tuple[Slice, ...]) -> pa.Table:
        """See `Source`. A bad row has no values: it is a dead letter, and its message says where it is."""
        return self.read_with_faults(slices).table

    def read_with_faults(self, slices: tuple[Slice, ...]) -> RowsRead:
        """See `Source`."""
        parts: list[RowsRead] = []
        for piece in slices:
            number, at = _parse(OffsetRange.of(piece).last)
            fault = self._fault(number) if at == AT_FAULT else None
            parts.append(self._read(number, piece) if fault is None else _unreadable(1, *fault))
        schema = joined([part.table for part in parts]).schema
        return join_rows([RowsRead(conform(part.table, schema), part.bad) for part in parts], schema)

    def _read(self, number: int, piece: Slice) -> RowsRead:
        """Read rows of a file; those of one that has changed, or is gone, are bad rows, unless its folder is gone."""
        try:
            return self.file(number).read_with_faults((replace(piece, offsets=""),))
        except InvalidSource as error:
            self._require_same()
            return _unreadable(piece.rows, self._spec.title, error.message)

    def give_up(self, number: int, error: InvalidSource) -> None:
        """Note why a file, or the rest of it, cannot be read. Raises `StreamUnavailable` if its folder is gone."""
        self._require_same()
        fault = [str(error.details.get("file") or self._spec.title), error.message]
        self._workspace.blobs.put(f"{_folder(self._name(number))}/fault.json", json.dumps(fault).encode())

    def _require_same(self) -> None:
        """Raise `StreamUnavailable` if not only a file is gone, but the folder."""
        self._place.require_same(self._ledger.files_of(self._job_id))

    @cached_property
    def _place(self) -> WatchedPlace:
        location = self._workspace.locations.resolve(self._spec.path)
        return WatchedPlace(self._spec.title, location, self._workspace.blobs, f"jobs/{self._job_id}/files/place.json")

    def wait(self, cursor: str, timeout_s: float) -> bool:  # noqa: ARG002  # a folder is looked at, whatever was read
        """See `EndlessSource`: no file system says when there is a new file."""
        threading.Event().wait(timeout_s)
        return True

    def survey(self, cursor: str) -> Survey:
        """See `EndlessSource`. The files that wait count as many rows as those before them had on average."""
        at = StreamOffsets.parse(cursor or self._spec.offsets).partitions.get(self._job_id, PartitionOffset(BEGINNING))
        number, _ = _parse(at.after)
        taken = self._ledger.files_of(self._job_id)
        waiting = len(self._fresh(number, taken, self._entries(taken)))
        return Survey(round(waiting * max(at.position / max(number, 1), 1)), 1)

    def settle(self, settled: Sequence[Mapping[str, str]]) -> None:
        """Delete the descriptions of the files that are settled."""
        (own,) = settled  # nobody else reads by these numbers
        number, _ = _parse(own.get(self._job_id, BEGINNING))
        blobs = self._workspace.blobs
        for folder in blobs.folders(f"jobs/{self._job_id}/files"):
            if int(folder) < number:
                blobs.delete_folder(f"jobs/{self._job_id}/files/{folder}")

    def file(self, number: int) -> Source:
        """Open a file that was taken. Raises `NotFound` or `StorageError`."""
        name = self._name(number)
        source = self._workspace.open_described(name, self._workspace.described(name))
        return source if self._inspector is None else self._inspector.apart(name, source)

    def is_faulty(self, number: int) -> bool:
        """Return whether a file that was taken cannot be read at all."""
        return self._fault(number) is not None

    def take_next(self, number: int) -> int | None:
        """Take the oldest file that is ready, after that of this number; return its number, None without one.

        The number of a file that was taken and never planned is not given again: an inspector may have it open.
        """
        taken = self._ledger.files_of(self._job_id)
        entries = self._entries(taken)
        self._place.note()
        there = {info.base_name for info in entries}
        self._ledger.forget_files(self._job_id, [one for one, at in taken.items() if at < number and one not in there])
        fresh = self._fresh(number, taken, entries)
        if not fresh or self._inspector is None:
            return None
        chosen = min(fresh, key=lambda info: (info.mtime_ns or 0, info.base_name))
        location = self._workspace.locations.resolve(self._spec.path).child(chosen.base_name)
        following = max([number, *taken.values()]) + 1
        name = self._name(following)
        try:
            described = self._inspector.describe(self._spec.files(location.uri))
            if [one.name for one in described.files] != [location.uri]:  # a name is a pattern once its file is gone
                raise InvalidSource(f"{location.uri!r} is no file any more.")
            self._workspace.describe_source(name, described)
        except InvalidSource as error:
            self._require_same()
            self._workspace.blobs.put(f"{_folder(name)}/fault.json", json.dumps([location.uri, error.message]).encode())
        except StorageError as error:
            raise StreamUnavailable(f"{location.uri} cannot be read: {error.message}", hint=error.hint) from error
        never_planned = [one for one, at in taken.items() if at > number]
        self._ledger.note_file(self._job_id, chosen.base_name, following, never_planned)
        return following

    def _fresh(self, number: int, taken: Mapping[str, int], entries: Sequence[fs.FileInfo]) -> list[fs.FileInfo]:
        """Return the files that are ready and are still to be read. number: of the last one that was."""
        return [
            info
            for info in self._ready(entries)
            if not 0 < taken.get(info.base_name, 0) <= number
            and self._known.get(info.base_name) not in (ANY_TIME, info.mtime_ns)
        ]

    def _ready(self, entries: Sequence[fs.FileInfo]) -> list[fs.FileInfo]:
        spec, names = self._spec, {info.base_name for info in entries}
        changed_before = (self._clock.wall() - spec.ready_after_s) * 1e9
        found = []
        for info in entries:
            name = info.base_name
            if info.type != fs.FileType.File or name.startswith((".", "_")) or not fnmatchcase(name, spec.pattern):
                continue
            if spec.marker is None:
                is_ready = (info.mtime_ns or 0) <= changed_before
            else:
                is_ready = not name.endswith(spec.marker) and name + spec.marker in names
            if is_ready:
                found.append(info)
        return found

    def _entries(self, taken: Collection[str]) -> list[fs.FileInfo]:
        entries = self._place.entries(taken)
        if len(entries) > MAX_FILES:
            raise StreamUnavailable(
                f"{self._spec.title} has {len(entries):,} files, at most {MAX_FILES:,} can be watched.",
                hint="Move away those that were read.",
            )
        return entries

    def _fault(self, number: int) -> tuple[str, str] | None:
        try:
            file, reason = json.loads(
                self._workspace.blobs.get(f"{_folder(self._name(number))}/fault.json").to_pybytes()
            )
        except NotFound:
            return None
        return str(file), str(reason)

    def _name(self, number: int) -> str:
        """Name what is stored of a file, in place of a job."""
        return f"{self._job_id}/files/{number}"


class _FolderSplitter(Splitter):
    def __init__(self, source: WatchedFolder, offsets: StreamOffsets, partition: str, clock: Clock) -> None:
        self._source = source
        self._offsets = offsets
        self._partition = partition
        self._clock = clock
        self._number, self._cursor = _parse(offsets.partitions[partition].after)
        self._open: Splitter | None = None
        self._is_at_end = self._number == 0

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:
        """See `Splitter`. A split is of one file."""
        while True:
            if self._is_at_end:
                following = self._source.take_next(self._number)
                if following is None:
                    return NotYet()
                self._number, self._cursor, self._is_at_end = following, "", False
            if self._source.is_faulty(self._number):
                self._is_at_end = True
                if self._cursor != AT_FAULT:
                    return self._moved((Slice(0, 0, 0, 1),), 1, 0, AT_FAULT)
                continue
            try:
                if self._open is None:
                    self._open = self._source.file(self._number).splitter(self._cursor)
                found = self._open.next_split(max_rows, max_bytes)
            except InvalidSource as error:
                self.close()
                self._source.give_up(self._number, error)
                continue
            if isinstance(found, InputSplit):
                return self._moved(found.slices, found.rows, found.bytes, found.cursor)
            if isinstance(found, NotYet):
                return found
            self.close()
            self._is_at_end = True

    def close(self) -> None:
        """See `Splitter`."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _moved(self, slices: tuple[Slice, ...], rows: int, nbytes: int, cursor: str) -> InputSplit:
        before = self._offsets.partitions[self._partition]
        now_ms = int(self._clock.wall() * 1000)
        after = PartitionOffset(f"{self._number}:{cursor}", before.position + rows, now_ms, now_ms)
        self._cursor, self._offsets = cursor, self._offsets.at(self._partition, after)
        offsets = json.dumps([self._partition, before.after, after.after], separators=(",", ":"))
        return InputSplit(tuple(replace(one, offsets=offsets) for one in slices), rows, nbytes, self._offsets.write())


def _unreadable(rows: int, file: str, reason: str) -> RowsRead:
    nothing = pa.table({"file": pa.nulls(rows, pa.string())})
    return RowsRead(nothing, tuple(BadRow(place, file, 0, "", reason, BAD_FILE) for place in range(rows)))


def _known_name(job_id: str) -> str:
    return f"jobs/{job_id}/files/known.json"


def _known(blobs: BlobStore, job_id: str) -> dict[str, int]:
    """Return the files that a job does not read, with the time of the one that is meant, or `ANY_TIME`."""
    try:
        found: dict[str, int] = json.loads(blobs.get(_known_name(job_id)).to_pybytes())
    except NotFound:
        return {}
    return found


def _parse(offset: str) -> tuple[int, str]:
    """Return the number of a file, and a cursor in it."""
    number, _, cursor = offset.partition(":")
    return int(number), cursor


def _folder(name: str) -> str:
    return f"jobs/{name}"
