"""Object stores: the buckets of S3, Google Cloud Storage and Azure, by obstore.

What goes wrong is raised as an `OSError` with the `errno` that a local file would give, so that the callers decide
by one number for disks and buckets alike. `ENOENT` (nothing of that name, or no such bucket), `EACCES` (the keys are
wrong, or do not permit it) and `EINVAL` (the store refuses the request, or nothing is known of the error) are final.
`EIO` (no connection, no answer in time, an overloaded or broken service) may pass, and obstore has tried the request
again by then; `ESTALE` says that an open object was written again.
"""

from __future__ import annotations

import configparser
import errno
import io
import os
import re
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import obstore
import pyarrow as pa
from obstore import exceptions as problems
from obstore.store import AzureStore, GCSStore, S3Store
from pyarrow import fs

from batchmill.caches import Lru
from batchmill.error_text import first_line
from batchmill.errors import InvalidSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from obstore import GetOptions

SCHEMES = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}
PART_BYTES = 8 * 1024 * 1024  # of an upload: a larger object goes up in several parts, each tried again by itself
MAX_PARTS_AT_ONCE = 4
MAX_BUCKETS = 64  # with open connections
LIST_CHUNK = 1000
_CLIENT: dict[str, Any] = {
    "connect_timeout": "10s",
    "read_timeout": "60s",  # between two bytes of an answer
    "timeout": "600s",
}
_RETRIES: dict[str, Any] = {
    "max_retries": 3,
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=2), "base": 2},
    "retry_timeout": timedelta(seconds=30),
}
_ERRNOS: dict[type[Exception], int] = {
    FileNotFoundError: errno.ENOENT,
    problems.PreconditionError: errno.ESTALE,
    problems.PermissionDeniedError: errno.EACCES,
    problems.UnauthenticatedError: errno.EACCES,
    problems.InvalidPathError: errno.EINVAL,
    problems.NotSupportedError: errno.EINVAL,
    NotImplementedError: errno.EINVAL,
    problems.UnknownConfigurationKeyError: errno.EINVAL,
}
_STATUS = re.compile(r"status code: (\d{3})")
_STATUS_ERRNOS = {"401": errno.EACCES, "403": errno.EACCES, "404": errno.ENOENT}
_TRANSIENT_STATUS = re.compile(r"408|409|429|5(?!01|05)\d\d")
_NO_ANSWER = "HTTP error"
"""How obstore names what kept a complete answer from arriving: no connection, no address, a timeout, a cut."""


class ObjectStores:
    """The buckets of one service. A path is "bucket/key". Safe to use from several threads.

    scheme: one of `SCHEMES`. options: of obstore's store, above what it finds in the environment.
    """

    def __init__(self, scheme: str, options: Mapping[str, Any]) -> None:
        self.scheme = scheme
        self.options = dict(options)
        self._buckets: Lru[str, Any] = Lru(MAX_BUCKETS)

    def look_up(self, path: str) -> fs.FileInfo:
        """What is at a path: a file, a folder (there are objects below it), or nothing."""
        store, key = self._open(path)
        with suppress(FileNotFoundError), _os_errors(path):
            return _file(path, obstore.head(store, key)) if key else self._folder(path)
        return self._folder(path)

    def _folder(self, path: str) -> fs.FileInfo:
        store, key = self._open(path)
        first = None
        with suppress(FileNotFoundError), _os_errors(path):  # no such bucket
            first = next(iter(obstore.list(store, key or None, chunk_size=1)), None)
        return fs.FileInfo(path, fs.FileType.Directory if first else fs.FileType.NotFound)

    def require_bucket(self, path: str) -> None:
        """Raise `FileNotFoundError` if there is no such bucket."""
        with _os_errors(path):
            store, _ = self._open(path)
            next(iter(obstore.list(store, chunk_size=1)), None)

    def entries(self, path: str, *, recursive: bool) -> list[fs.FileInfo]:
        """The files, and unless `recursive` the folders, in a folder; none in a missing one."""
        store, key = self._open(path)
        bucket = path.partition("/")[0]
        found: list[Any] = []
        folders: Sequence[str] = []
        with suppress(FileNotFoundError), _os_errors(path):  # no such bucket
            if recursive:
                found = [meta for chunk in obstore.list(store, key or None, chunk_size=LIST_CHUNK) for meta in chunk]
            else:
                level = obstore.list_with_delimiter(store, key or None)
                found, folders = list(level["objects"]), level["common_prefixes"]
            found = [meta for meta in found if not _is_marker(store, key, meta)]
        files = [_file(f"{bucket}/{meta['path']}", meta) for meta in found]
        return [*files, *(fs.FileInfo(f"{bucket}/{folder}", fs.FileType.Directory) for folder in folders)]

    def put(self, path: str, data: pa.Buffer | Path) -> None:
        """Write an object from memory or from a local file; a large one in several parts.

        Others see the new object once all of it is written, or the old one. Only a few parts of a file are in memory.
        """
        with _os_errors(path):
            store, key = self._open(path)
            source = data if isinstance(data, Path) else memoryview(data).cast("B")
            obstore.put(store, key, source, chunk_size=PART_BYTES, max_concurrency=MAX_PARTS_AT_ONCE)

    def create(self, path: str, data: bytes) -> bool:
        """Write an object unless there is one: of several callers at the same time, exactly one writes.

        Returns whether this call wrote it. When an answer of the store was lost, that may be False for the writer
        as well: whoever must know compares what is there now.
        """
        with _os_errors(path):
            store, key = self._open(path)
            try:
                obstore.put(store, key, data, mode="create", use_multipart=False)
            except problems.AlreadyExistsError:
                return False
        return True

    def get(self, path: str) -> pa.Buffer:
        """An object's bytes."""
        with _os_errors(path):
            store, key = self._open(path)
            found = obstore.get(store, key)
            size = int(found.meta["size"])
            if size <= PART_BYTES:
                return pa.py_buffer(found.bytes())
            buffer = pa.allocate_buffer(size)  # filled as the bytes arrive: they are in memory once, not twice
            view, place = memoryview(buffer).cast("B"), 0
            for chunk in found.stream(min_chunk_size=1):
                view[place : place + len(chunk)] = chunk
                place += len(chunk)
            if place != size:
                raise OSError(errno.EIO, f"the object has {size:,} bytes, the store sent {place:,}")
        return buffer

    def open(self, path: str) -> pa.NativeFile:
        """An object to be read at any place; holds no more of it in memory than is asked for."""
        with _os_errors(path):
            store, key = self._open(path)
            return pa.PythonFile(_ObjectFile(path, store, obstore.head(store, key)), mode="r")

    def delete(self, *paths: str) -> None:
        """Delete objects of one bucket; missing ones are fine."""
        if len(paths) > 1:
            with _os_errors(paths[0]), suppress(FileNotFoundError):
                store = self._open(paths[0])[0]
                obstore.delete(store, [self._open(path)[1] for path in paths])
                return
        for path in paths:  # of several, some may be left when the store has reported that one is missing
            with _os_errors(path), suppress(FileNotFoundError):
                obstore.delete(*self._open(path))

    def delete_folder(self, path: str) -> None:
        """Delete all objects below a folder; a missing one is fine."""
        with _os_errors(path):
            store, key = self._open(path)
            for chunk in obstore.list(store, key, chunk_size=LIST_CHUNK):
                obstore.delete(store, [meta["path"] for meta in chunk])

    def _open(self, path: str) -> tuple[Any, str]:
        """The store of a path's bucket, and the key in it."""
        bucket, _, key = path.partition("/")
        return self._buckets.get_or_make(bucket, lambda: self._make(bucket)), key.rstrip("/")

    def _make(self, bucket: str) -> Any:
        try:
            return SCHEMES[self.scheme](bucket, client_options=_CLIENT, retry_config=_RETRIES, **self.options)
        except problems.BaseError as error:
            raise InvalidSettings(
                f"{self.scheme}:// cannot be used by this service: {_reason(error)}.",
                hint="Set the account and its keys in the environment of coordinators and workers.",
            ) from error


class _ObjectFile(io.RawIOBase):
    """An object as a file of Python. One thread at a time; `pa.PythonFile` sees to that."""

    def __init__(self, path: str, store: Any, meta: Any) -> None:
        self._path = path
        self._store = store
        self._key = meta["path"]
        self._size = int(meta["size"])
        self._version: GetOptions = {"if_match": meta["e_tag"]}  # all reads are of one version
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._size}[whence]
        self._place = start + offset
        return self._place

    def read(self, size: int = -1) -> Any:
        left = max(self._size - self._place, 0)
        wanted = left if size < 0 else min(size, left)
        if not wanted:
            return b""
        end = self._place + wanted
        options: GetOptions = {"range": (self._place, end), **self._version}
        with _os_errors(self._path):
            data = obstore.get(self._store, self._key, options=options).bytes()
        self._place = end
        return data.to_bytes()


def s3_options(endpoint: str | None, region: str | None) -> dict[str, Any]:
    """obstore's options for S3: the service's address and region, and the keys of AWS' file if no others are set."""
    options: dict[str, Any] = {"endpoint": endpoint, "region": region, **_keys_of_file()}
    if endpoint and endpoint.startswith("http://"):
        options["allow_http"] = True
    return {name: value for name, value in options.items() if value is not None}


def _keys_of_file() -> dict[str, str]:
    """The keys of the profile in AWS' credentials file, which obstore does not read by itself."""
    if any(name in os.environ for name in ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE")):
        return {}
    path = os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path.home() / ".aws" / "credentials"
    parser = configparser.RawConfigParser()
    try:
        parser.read(path)
        profile = parser[os.environ.get("AWS_PROFILE", "default")]
    except (configparser.Error, KeyError, OSError, UnicodeDecodeError):
        return {}
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    return {name.removeprefix("aws_"): profile[name] for name in names if name in profile}


def _file(path: str, meta: Any) -> fs.FileInfo:
    changed_ns = int(meta["last_modified"].timestamp()) * 1_000_000_000
    return fs.FileInfo(path, fs.FileType.File, size=int(meta["size"]), mtime_ns=changed_ns)


def _is_marker(store: Any, folder: str, meta: Any) -> bool:
    """Whether a listed object is the empty one, "folder/", by which some programs make a folder."""
    if meta["size"]:
        return False
    if meta["path"] == folder:
        return True
    try:
        obstore.head(store, meta["path"])
    except FileNotFoundError:
        return True
    return False


@contextmanager
def _os_errors(path: str) -> Iterator[None]:
    """Turn obstore's errors into the `OSError` of the same meaning."""
    try:
        yield
    except (problems.BaseError, FileNotFoundError, NotImplementedError) as error:
        number = _number(error)
        reason = _reason(error) if number in (errno.EIO, errno.EINVAL) else os.strerror(number)
        raise OSError(number, reason, path) from error


def _number(error: Exception) -> int:
    for kind, number in _ERRNOS.items():
        if isinstance(error, kind):
            return number
    status = _STATUS.search(str(error))  # obstore gives listing no typed errors
    if status is None:
        return errno.EIO if _NO_ANSWER in str(error) else errno.EINVAL
    return errno.EIO if _TRANSIENT_STATUS.fullmatch(status[1]) else _STATUS_ERRNOS.get(status[1], errno.EINVAL)


def _reason(error: Exception) -> str:
    """The cause in obstore's message, without the request before it and the answer's body after it."""
    line = first_line(error)
    return line.rpartition(" - ")[2].partition(": <")[0].rstrip(".")
