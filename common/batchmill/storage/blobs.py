"""Where rows are stored: named blobs below one folder or bucket prefix, each either complete or absent."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from batchmill.error_text import first_line
from batchmill.errors import InvalidRequest, InvalidSettings, NotFound, StorageError, StorageUnavailable
from batchmill.storage import disk
from batchmill.storage.anchors import open_anchored
from batchmill.storage.seals import (
    SEAL_BYTES,
    checksum_of,
    checksum_of_open,
    seal_file,
    seal_of,
    unseal,
    unsealed_pieces,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from batchmill.storage.locations import Location, Locations
    from batchmill.storage.objects import ObjectStores

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")
_ANY_PART = re.compile(r"(?!\.{1,2}$)[^/\0]+")
_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_UNAVAILABLE = _FULL | {
    errno.EIO,
    errno.EROFS,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.ECONNREFUSED,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EMFILE,
    errno.ENFILE,
}
_REMOTE_HINTS = {
    errno.EACCES: "Check the service's keys, their permissions, and that the bucket is theirs.",
    errno.EINVAL: "Check the bucket's region and the object store's address (of S3: BATCHMILL_S3_REGION, "
    "BATCHMILL_S3_ENDPOINT).",
    errno.EIO: "Check that the object store answers, and its address (of S3: BATCHMILL_S3_ENDPOINT).",
}


class BlobStore:
    """Named blobs below `root`. All methods may be called from several threads, and several processes, at once.

    A name is a relative path "a/b/c" of parts out of `[A-Za-z0-9._-]` that do not begin with a dot; another one
    raises `InvalidRequest`. A blob that is not there raises `NotFound`, anything else that goes wrong
    `StorageError`, which says what was done to what, and the cause.

    A write is atomic: others see the complete blob or none, whenever this process dies. On a local disk it has
    reached the disk when the call returns. Writing a name again replaces the blob; what was read of the old
    one stays as it was.

    is_sealed: whether each blob ends with a seal, which is checked whenever it is read: `DamagedData` if it does not
    fit. Sizes are those without seals. prefix: of all names in their seals; "" or one that ends with "/".
    is_private: whether only the service's user may see its folders and files. Those of others follow the umask.
    has_any_name: whether names may have other characters, too, since people chose them.
    """

    def __init__(
        self,
        root: Location,
        *,
        is_sealed: bool = False,
        is_private: bool = False,
        prefix: str = "",
        has_any_name: bool = False,
    ) -> None:
        self.root = root
        self._is_private = is_private
        self._names = _ANY_PART if has_any_name else _PART
        self._is_sealed = is_sealed
        self._prefix = prefix

    @classmethod
    def open(cls, uri: str, locations: Locations) -> Self:
        """The sealed store at a folder, which is made if it is missing, or at an object store's URI.

        Raises `InvalidSettings` for a malformed URI, `StorageError` if the folder cannot be made or there is no
        such bucket.
        """
        root = locations.resolve(uri, error=InvalidSettings)
        with storage_errors("use", root):
            if root.objects is None:
                disk.make_folder(Path(root.path), _PRIVATE_FOLDER)
            else:
                _require_bucket(root, root.objects)
        return cls(root, is_sealed=True, is_private=True)

    def below(self, prefix: str) -> BlobStore:
        """The blobs below a folder, as a store whose names begin there."""
        return BlobStore(
            self.location(prefix),
            is_sealed=self._is_sealed,
            is_private=self._is_private,
            prefix=f"{self._prefix}{prefix}/",
        )

    def unsealed(self) -> BlobStore:
        """The same place without seals: for blobs that people write, too."""
        return BlobStore(self.root, is_private=self._is_private)

    def put(self, name: str, data: bytes | pa.Buffer | Sequence[bytes | pa.Buffer]) -> int:
        """Write a blob from bytes or a `pa.Buffer`, or from several in a row. Returns the number of bytes."""
        pieces = [data] if isinstance(data, bytes | pa.Buffer) else list(data)
        if self._is_sealed:
            pieces.append(seal_of(self._prefix + name, pieces))
        location = self.location(name)
        with storage_errors("write", location):
            if location.objects is None:
                return self._place(location, lambda path: disk.fill_file(path, pieces)) - self._seal_bytes
            content = pa.py_buffer(pieces[0] if len(pieces) == 1 else b"".join(memoryview(piece) for piece in pieces))
            with _bucket_of(location):
                location.objects.put(location.path, content)
            return int(content.size) - self._seal_bytes

    def put_file(self, name: str, fill: Callable[[str], None]) -> int:
        """Write a blob through `fill`, which is given the path of a local file to write. Returns its size in bytes."""

        def fill_and_seal(path: str) -> None:
            fill(path)
            if self._is_sealed:
                seal_file(self._prefix + name, path)

        location = self.location(name)
        with storage_errors("write", location):
            if location.objects is None:
                return self._place(location, fill_and_seal) - self._seal_bytes
            with tempfile.NamedTemporaryFile(prefix="batchmill-") as staged:
                fill_and_seal(staged.name)
                with _bucket_of(location):
                    location.objects.put(location.path, Path(staged.name))
                return Path(staged.name).stat().st_size - self._seal_bytes

    def put_table(self, name: str, table: pa.Table) -> int:
        """Write a table as `write_arrow` does. Returns the blob's size in bytes."""
        return self.put_file(name, lambda path: write_arrow(path, table))

    def put_new(self, name: str, data: bytes) -> bool:
        """Write a small blob unless one of that name exists. Returns whether it was written.

        Of several callers exactly one succeeds, on a disk and in an object store. When the answer of an object store
        is lost and the request repeated, that may be False for the one whose blob it is: compare what is there.
        """
        if self._is_sealed:
            data += seal_of(self._prefix + name, [data])
        location = self.location(name)
        with storage_errors("write", location):
            if location.objects is None:
                with location.anchored(make=True, mode=self._folder_mode) as target:
                    return disk.create(target, data, self._file_mode)
            with _bucket_of(location):
                return location.objects.create(location.path, data)

    def get(self, name: str) -> pa.Buffer:
        """A blob's bytes, read into memory: what is cut short or fails meanwhile is an error, and never a signal.

        Raises `DamagedData`, too, if its seal does not fit.
        """
        location = self.location(name)
        data = self._read(location)
        return unseal(self._prefix + name, data, location.uri) if self._is_sealed else data

    def _read(self, location: Location) -> pa.Buffer:
        with storage_errors("read", location):
            try:
                if location.objects is not None:
                    return location.objects.get(location.path)
                if location.roots:
                    with open(open_anchored(location.path, location.roots), "rb") as opened:  # noqa: PTH123  # no path
                        return pa.py_buffer(opened.read())
                with pa.OSFile(location.path) as file:
                    return file.read_buffer()
            except FileNotFoundError:
                raise _missing(location) from None

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield a sealed blob's bytes in pieces of at most 1 MiB, for what need not be in memory.

        Raises as `get`; damage is noticed before the last piece is given.
        """
        location = self.location(name)
        with storage_errors("read", location):
            try:
                objects = location.objects
                opened = pa.OSFile(location.path) if objects is None else objects.open(location.path)
            except FileNotFoundError:
                raise _missing(location) from None
            with opened as file:
                yield from unsealed_pieces(self._prefix + name, file, file.size(), location.uri)

    def checksum(self, name: str) -> tuple[int, int]:
        """Return the size in bytes and the xxh3 (64 bits) of a blob without a seal, which is read in pieces.

        Raises `NotFound`, `StorageError`.
        """
        location = self.location(name)
        with storage_errors("read", location):
            try:
                if location.objects is not None:
                    with location.objects.open(location.path) as file:
                        return checksum_of_open(file)
                if location.roots:
                    with open(open_anchored(location.path, location.roots), "rb") as opened:  # noqa: PTH123  # no path
                        return checksum_of_open(opened)
                return checksum_of(location.path)
            except FileNotFoundError:
                raise _missing(location) from None

    def read_table(self, name: str) -> pa.Table:
        """The table in an Arrow IPC file, checked so that no later access reads past a buffer."""
        buffer = self.get(name)
        with storage_errors("read", self.location(name)):
            table = pa.ipc.open_file(buffer).read_all()
            table.validate()
            return table

    def exists(self, name: str) -> bool:
        """Whether there is such a blob."""
        return bool(self._info(name).is_file)

    def size(self, name: str) -> int:
        """A blob's size in bytes."""
        info = self._info(name)
        if not info.is_file:
            raise _missing(self.location(name))
        return max(int(info.size) - self._seal_bytes, 0)

    def list(self, prefix: str = "") -> list[str]:
        """The names of all blobs below a folder, "" for all there are, sorted. A missing folder has none."""
        names = (name for name in self._walk(prefix) if not _is_hidden(name))
        return sorted(names)

    def folders(self, prefix: str) -> Sequence[str]:
        """The names of the folders in a folder, without those in them, sorted. A missing folder has none."""
        location = self.location(prefix)
        with storage_errors("list", location):
            infos = location.entries()
        names = (info.path.rstrip("/").rpartition("/")[2] for info in infos if not info.is_file)
        return sorted(name for name in names if not _is_hidden(name))

    def delete(self, *names: str) -> None:
        """Delete blobs, in as few requests as the store takes; missing ones are fine."""
        locations = [self.location(name) for name in names]
        if locations and locations[0].objects is not None:
            with storage_errors("delete", locations[0]):
                locations[0].objects.delete(*(location.path for location in locations))
            return
        for location in locations:
            with storage_errors("delete", location), suppress(FileNotFoundError), location.anchored() as path:
                path.unlink()

    def delete_folder(self, prefix: str) -> None:
        """Delete all blobs below a folder; a missing one is fine."""
        location = self.location(prefix)
        with storage_errors("delete", location):
            if location.objects is None:
                disk.remove_tree(location.path)
            else:
                location.objects.delete_folder(location.path)

    def delete_unfinished(self, prefix: str = "") -> None:
        """Delete what writers left below a folder when they died. A writer still at work fails with `StorageError`.

        An object store keeps its unfinished uploads out of sight; a lifecycle rule of the bucket ends them.
        """
        for name in self._walk(prefix) if self.root.is_local else ():
            if disk.is_unfinished(name.rpartition("/")[2]):
                unfinished = self.root.child(name)
                with storage_errors("delete", unfinished), suppress(FileNotFoundError), unfinished.anchored() as path:
                    path.unlink()

    def location(self, name: str) -> Location:
        """Return the location of a blob. Raises `InvalidRequest` for what is no blob name."""
        if not all(self._names.fullmatch(part) for part in name.split("/")):
            raise InvalidRequest(
                f"{name!r} is no blob name.",
                hint="Expected parts out of A-Z a-z 0-9 . _ - that do not begin with a dot, separated by '/'.",
                name=name,
            )
        return self.root.child(name)

    def _place(self, location: Location, fill: Callable[[str], None]) -> int:
        with location.anchored(make=True, mode=self._folder_mode) as target:
            return disk.place(target, fill, self._file_mode)

    @property
    def _folder_mode(self) -> int:
        return _PRIVATE_FOLDER if self._is_private else 0o777

    @property
    def _file_mode(self) -> int | None:
        return _PRIVATE_FILE if self._is_private else None

    @property
    def _seal_bytes(self) -> int:
        return SEAL_BYTES if self._is_sealed else 0

    def _info(self, name: str) -> Any:
        location = self.location(name)
        with storage_errors("look up", location):
            return location.look_up()

    def _walk(self, prefix: str) -> Iterator[str]:
        location = self.location(prefix) if prefix else self.root
        with storage_errors("list", location):
            infos = location.entries(recursive=True)
        start = len(self.root.path.rstrip("/")) + 1
        return (info.path[start:] for info in infos if info.is_file)


def write_arrow(path: str, table: pa.Table) -> None:
    """Write a table into an uncompressed Arrow IPC file, batch by batch."""
    with pa.OSFile(path, "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table.unify_dictionaries())  # a file holds one dictionary a column


@contextmanager
def storage_errors(action: str, location: Location) -> Iterator[None]:
    """Turn what a file system raises into the `StorageError` of `storage_error`."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise storage_error(action, location, error) from error


def storage_error(action: str, location: Location, cause: Exception) -> StorageError:
    """A `StorageError` saying that `action` ("write", "read") failed on a location, why, and what to do.

    It is a `StorageUnavailable` where the storage is full, read-only or away.
    """
    number = getattr(cause, "errno", None) or 0
    if number and (location.is_local or number in _FULL):
        text = os.strerror(number)
    else:  # what an object store answered, or a decoder says
        text = getattr(cause, "strerror", None) or first_line(cause)
    hint = "" if location.is_local else _REMOTE_HINTS.get(number, "")
    if number in _FULL:
        hint = _free_space(location)
    kind = StorageUnavailable if number in _UNAVAILABLE else StorageError
    return kind(f"could not {action} {location.uri}: {text.rstrip('.')}.", hint=hint, path=location.uri)


def _missing(location: Location) -> NotFound:
    return NotFound(f"there is no {location.uri}.", hint="It was deleted, or never written.", path=location.uri)


def _free_space(location: Location) -> str:
    folder = Path(location.path if location.is_local else tempfile.gettempdir())
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    return f"{usage.free:,} of {usage.total:,} bytes are free on that disk: make room, or use another one."


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or "/." in name


@contextmanager
def _bucket_of(location: Location) -> Iterator[None]:
    """Name the one thing that a write to an object store can miss."""
    try:
        yield
    except FileNotFoundError:
        raise StorageError(
            f"could not write {location.uri}: its bucket does not exist.",
            hint="Create the bucket, or correct its name.",
            path=location.uri,
        ) from None


def _require_bucket(root: Location, objects: ObjectStores) -> None:
    try:
        objects.require_bucket(root.path)
    except FileNotFoundError:
        bucket = root.path.partition("/")[0]
        raise StorageError(
            f"there is no bucket {bucket!r} for {root.uri}.", hint="Create it, or correct the URI.", path=root.uri
        ) from None
