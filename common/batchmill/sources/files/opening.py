"""Opens the files of a described source, and reports what is wrong with one that cannot be opened or read."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.caches import Lru
from batchmill.error_text import first_line
from batchmill.errors import InvalidSource, NotFound
from batchmill.storage.anchors import open_anchored, path_of, real_path
from batchmill.storage.blobs import storage_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchmill.sources.description import SourceDescription
    from batchmill.storage.blobs import BlobStore
    from batchmill.storage.locations import Location, Locations

_WINDOW_TOO_LARGE = "it was compressed by zstd with a window of more than 128 MiB, which is the limit"
MAX_OPEN_FILES = 16  # a source
MAX_OPEN_PARTS = 4  # an upload: each is in memory
_FINAL_ERRNOS = frozenset(
    {errno.EACCES, errno.EINVAL, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
)


class UnreadableFile(InvalidSource):
    """What is in a file cannot be read, now or later; the file has not changed."""


class SourceFiles:
    """The files of a described source. Safe to use from several threads."""

    def __init__(self, description: SourceDescription, locations: Locations, blobs: BlobStore) -> None:
        self.entries = description.files
        self._in_blobs = description.where == "blobs"
        self._locations = locations
        self._blobs = blobs
        self._open: Lru[tuple[int, bool], Any] = Lru(MAX_OPEN_PARTS if self._in_blobs else MAX_OPEN_FILES)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def are_uploaded(self) -> bool:
        """Whether they are parts of an upload, which users do not know."""
        return self._in_blobs

    def locate(self, index: int) -> Location:
        """Return where a file is, its links followed. Raises `InvalidSource` if it is outside the roots."""
        name = self.entries[index].name
        if self._in_blobs:
            return self._blobs.location(name)
        return real_location(self._locations.resolve(name), self._locations)

    def open(self, index: int, *, mapped: bool = False) -> Any:
        """Open a file that several threads may read at any offset; the ones last used stay open.

        mapped: map local files into memory.
        Raises `InvalidSource` if it vanished or changed since it was described, `DamagedData` for a damaged part of an
        upload, which is read into memory as a unit.
        """
        location = self.locate(index)
        if location.is_local:  # that costs a remote file a request: there it is done once
            self.check(index)
        return self._open.get_or_make((index, mapped), lambda: self._open_checked(index, mapped))

    def read_at(self, index: int, start: int, size: int) -> pa.Buffer:
        """Read `size` bytes of a file. Raises `InvalidSource` if it ends before them."""
        file = self.open(index)
        location = self.locate(index)
        with reading(location):
            data = file.read_at(size, start)
        if len(data) < size:
            raise changed(location.uri, "it ends earlier")
        return pa.py_buffer(data)

    def check(self, index: int) -> Location:
        """Return where a file is. Raises `InvalidSource` if it vanished or changed since it was described.

        A part of an upload is checked whenever it is opened instead.
        """
        location = self.locate(index)
        if self._in_blobs:
            return location
        entry = self.entries[index]
        with reading(location):
            info = location.look_up()
            if not info.is_file:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if info.size != entry.size:
            raise changed(location.uri, f"it had {entry.size:,} bytes and now has {info.size:,}")
        if entry.mtime_s and info.mtime_ns and info.mtime_ns // 1_000_000_000 != entry.mtime_s:
            raise changed(location.uri, "it was written again")
        return location

    def _open_checked(self, index: int, mapped: bool) -> Any:
        if self._in_blobs:
            return open_part(self._blobs, self.entries[index].name)
        location = self.check(index)
        with reading(location):
            return open_file(location, mapped=mapped)


def real_location(location: Location, locations: Locations) -> Location:
    """Follow the links of a local location, which keeps the name it is known by; a remote one is returned as it is."""
    if not location.is_local:
        return location
    with reading(location):
        real = real_path(location.path)
    place = locations.local(real, location.uri)
    locations.check(place)
    return place


def open_file(location: Location, *, mapped: bool = False) -> Any:
    """Open a file that can be read at any offset, as `pyarrow.NativeFile` is."""
    if location.objects is not None:
        return location.objects.open(location.path)
    open_local = pa.memory_map if mapped else pa.OSFile
    if not location.roots:
        return open_local(location.path)
    descriptor = open_anchored(location.path, location.roots)
    try:
        return open_local(path_of(descriptor))
    finally:
        os.close(descriptor)


def open_part(blobs: BlobStore, name: str) -> pa.BufferReader:
    """Open a part of an upload, read into memory and checked. Raises `InvalidSource` if it is gone, `DamagedData`."""
    with reading(blobs.location(name)):
        try:
            return pa.BufferReader(blobs.get(name))
        except NotFound:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None


def changed(uri: str, how: str) -> InvalidSource:
    """Make the error for a file that is not what it was when the job was submitted."""
    return InvalidSource(
        f"{uri} changed since the job was submitted: {how}.",
        hint="Submit the job again, and leave its files alone until it has ended.",
        file=uri,
    )


def unreadable(uri: str, reason: str, hint: str = "") -> UnreadableFile:
    """Make the error for a file whose content is not what its format says."""
    return UnreadableFile(f"{uri} cannot be read: {reason.rstrip('.')}.", hint=hint or _hint(reason), file=uri)


def fault_of(error: UnreadableFile) -> str:
    """Return why a file cannot be read, without its name: it is beside it."""
    return error.message.removeprefix(f"{error.details.get('file')}").lstrip(", :").rstrip(".")


_observers: list[Callable[[str, bool], None]] = []


def observe_reading(callback: Callable[[str, bool], None]) -> None:
    """Call back with a file's name, and True, whenever this process begins to read it, and with False when it ends."""
    _observers.append(callback)


@contextmanager
def reading(location: Location) -> Iterator[None]:
    """Turn what file systems and decoders raise over a file into an error that names it.

    `StorageError` for what may be transient (a network, a disk), `InvalidSource` for what is not.
    """
    for callback in _observers:
        callback(location.uri, True)
    try:
        with _naming(location):
            yield
    finally:
        for callback in _observers:
            callback(location.uri, False)


@contextmanager
def _naming(location: Location) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InvalidSource(
            f"{location.uri} does not exist.",
            hint="Check the path. If the file was moved or deleted, restore it or submit the job again.",
            file=location.uri,
        ) from None
    except (OSError, pa.ArrowException) as error:
        if isinstance(error, MemoryError):
            raise
        if getattr(error, "errno", None) == errno.ESTALE and not location.is_local:
            raise changed(location.uri, "it was written again") from error
        if _is_transient(error):
            raise storage_error("read", location, error) from error
        raise unreadable(location.uri, _reason(error)) from error
    except ValueError as error:  # a name that is not UTF-8, a number that no reader expects
        raise unreadable(location.uri, _reason(error)) from error


def _is_transient(error: Exception) -> bool:
    number = getattr(error, "errno", None)
    return number is not None and number not in _FINAL_ERRNOS


def _reason(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number is not None and number != errno.EINVAL:
        return os.strerror(number)
    reason = str(getattr(error, "strerror", None) or first_line(error))
    return _WINDOW_TOO_LARGE if "requires too much memory" in reason else reason


def _hint(reason: str) -> str:
    if reason == os.strerror(errno.EACCES):
        return "Let the service's user read it."
    if reason == _WINDOW_TOO_LARGE:
        return "Compress it again with --long=27 or less, or without --long."
    return "Check that the file is complete and has the format that its ending, or the source's format, says."
