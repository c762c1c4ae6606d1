"""Where files may be read and written: paths and URIs, checked against the configured roots."""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pyarrow import fs

from batchmill.errors import BatchmillError, InvalidSettings, InvalidSource
from batchmill.storage.anchors import IS_POSSIBLE, anchored, anchored_folder, is_below, real_path
from batchmill.storage.disk import make_folder
from batchmill.storage.hub_models import ANY, HubModels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchmill.storage.objects import ObjectStores

UNRESTRICTED = ("/", "s3://", "gs://", "az://")
"""The roots of the embedded service, which acts for the user who started it."""

_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_QUERY = re.compile(r"\?[^/]*=")  # a lone "?" is a wildcard, or part of a name
MAX_NAME_BYTES = 255  # of a file or folder, on the file systems in use
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REMOTE = ("s3", "gs", "az")
_AZURE = "Write az://CONTAINER/PATH; the account comes from the environment."
_OTHER_NAMES = {
    **dict.fromkeys(("abfs", "abfss", "wasb", "wasbs", "azure", "adl"), _AZURE),
    **dict.fromkeys(("s3a", "s3n"), "Write s3://BUCKET/PATH."),
    "gcs": "Write gs://BUCKET/PATH.",
    **dict.fromkeys(("http", "https", "ftp", "hf"), "Download it to a folder that the service can read."),
    **dict.fromkeys(
        (
            *("postgresql", "postgres", "mysql", "mariadb", "sqlite", "duckdb", "mssql", "oracle", "jdbc"),
            *("mongodb", "mongodb+srv", "bigquery", "snowflake", "redshift", "kafka"),
        ),
        "Only files have a path. Give the rows of a query as rows=, a generator of dicts or Arrow tables.",
    ),
    "hdfs": "Copy it to a folder that the service can read, or to an object store.",
}
_DISKS = fs.LocalFileSystem()


@dataclass(frozen=True, slots=True)
class Location:
    """A place on this machine's disks or in an object store, and the URI a user knows it by."""

    path: str  # "/data/x"; in an object store "bucket/x"
    uri: str  # "/data/x", "s3://bucket/x"
    objects: ObjectStores | None = None  # the object store; None: the disks
    roots: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """Folders that no link may lead out of, whenever it is used; without any, links are followed anywhere."""

    def child(self, name: str) -> Location:
        """The place `name` below this one."""
        return Location(f"{self.path.rstrip('/')}/{name}", f"{self.uri.rstrip('/')}/{name}", self.objects, self.roots)

    def parent(self) -> Location | None:
        """The folder that this is in; None for the root of the disks and for a bucket."""
        above, slash, name = self.path.rstrip("/").rpartition("/")
        if not slash:
            return None
        return Location(above or "/", self.uri.rstrip("/").removesuffix(f"/{name}") or "/", self.objects, self.roots)

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine's disks."""
        return self.objects is None

    def look_up(self) -> fs.FileInfo:
        """What is there: a file with its size and time of change, a folder, or nothing. Raises `OSError`."""
        if self.objects is not None:
            return self.objects.look_up(self.path)
        if not self.roots:
            return _DISKS.get_file_info(self.path)
        real = Location(real_path(self.path), self.uri, None, self.roots)
        if real.path in self.roots:
            return _DISKS.get_file_info(real.path)
        try:
            with real.anchored() as path:
                return _look_up(path, self.path)
        except (FileNotFoundError, NotADirectoryError):
            return fs.FileInfo(self.path, fs.FileType.NotFound)

    @contextmanager
    def anchored(self, *, make: bool = False, mode: int = 0o777) -> Iterator[Path]:
        """Yield a path on this machine's disks that no link redirects, for as long as the block runs.

        make: make the missing folders above it, with this mode where `roots` is empty. Raises `OSError`.
        """
        if self.roots:
            with anchored(self.path, self.roots, make=make) as path:
                yield path
            return
        path = Path(self.path)
        if make:
            make_folder(path.parent, mode)
        yield path

    def entries(self, *, recursive: bool = False, undecodable: list[str] | None = None) -> list[fs.FileInfo]:
        """What is in this folder, in no order; nothing if it is missing. Raises `OSError`.

        recursive: all files below it; folders may be among them. undecodable: a list that gets the names that are not
        UTF-8, as people can read them; without it, one is an error.
        """
        if self.objects is not None:
            return self.objects.entries(self.path, recursive=recursive)
        if not self.roots:
            return _entries(self.path, recursive, undecodable)
        try:
            with anchored_folder(self.path, self.roots) as folder:
                found = _entries(str(folder), recursive, undecodable)
                return [_renamed(info, str(folder), self.path.rstrip("/")) for info in found]
        except FileNotFoundError:
            return []


def _entries(folder: str, recursive: bool, undecodable: list[str] | None) -> list[fs.FileInfo]:  # of `entries`
    found: list[fs.FileInfo] = []
    for info in _DISKS.get_file_info(fs.FileSelector(folder, recursive=recursive, allow_not_found=True)):
        try:
            _ = info.path
        except UnicodeDecodeError as error:
            shown = bytes(error.object).rpartition(b"/")[2].decode(errors="backslashreplace")
            if undecodable is None:
                raise OSError(errno.EILSEQ, f"a name in it is not UTF-8: {shown!r:.300}", folder) from error
            undecodable.append(shown)
        else:
            found.append(info)
    return found


def _renamed(info: fs.FileInfo, before: str, after: str) -> fs.FileInfo:
    return fs.FileInfo(after + info.path[len(before) :], info.type, mtime_ns=info.mtime_ns, size=info.size)


def _look_up(path: Path, name: str) -> fs.FileInfo:
    found = path.lstat()
    if stat.S_ISDIR(found.st_mode):
        return fs.FileInfo(name, fs.FileType.Directory, mtime_ns=found.st_mtime_ns)
    kind = fs.FileType.File if stat.S_ISREG(found.st_mode) else fs.FileType.Unknown
    return fs.FileInfo(name, kind, mtime_ns=found.st_mtime_ns, size=found.st_size)


class Locations:
    """Resolves the paths and URIs that users name, and refuses those outside `roots`.

    roots: local folders or URI prefixes (`/data`, `s3://bucket/prefix`). Links are followed before the check, so
        that none leads out of a root. `UNRESTRICTED` allows everything.
    s3_endpoint: the address of an S3 service other than AWS, `http://host:port`; keys come from the environment.
    hub_models: the models of the hub that users may name.

    Raises `InvalidSettings` for a root or an endpoint that is none.
    """

    def __init__(
        self,
        roots: Sequence[str],
        *,
        s3_endpoint: str | None = None,
        s3_region: str | None = None,
        hub_models: Sequence[str] = ANY,
    ) -> None:
        self.hub_models = HubModels(hub_models)
        self._roots = tuple(_root(root) for root in roots)
        is_bounded = IS_POSSIBLE and "/" not in self._roots
        self._anchors = tuple(root for root in self._roots if root.startswith("/")) if is_bounded else ()
        self._s3_endpoint = _endpoint(s3_endpoint) if s3_endpoint else None
        self._s3_region = s3_region
        self._stores: dict[str, ObjectStores] = {}

    def resolve(self, uri: str, *, error: type[BatchmillError] = InvalidSource) -> Location:
        """The location of an absolute path or URI. Raises `error` if it is malformed or outside the roots.

        A path's "." and ".." are taken out first; in the URI of an object store they are refused. `file://` URIs
        are percent-decoded; an object's key is in its URI as it is.
        """
        scheme, path = _split(uri, error)
        location = Location(path, f"{scheme}://{path}", self._objects(scheme)) if scheme else self.local(path, path)
        self.check(location, error=error)
        return location

    def local(self, path: str, uri: str) -> Location:
        """Return a place on the disks, which is not checked yet."""
        return Location(path, uri, None, self._anchors)

    def check(self, location: Location, *, error: type[BatchmillError] = InvalidSource) -> None:
        """Raise `error` if a location, its links followed, is outside the roots."""
        if self.holds(location):
            return
        raise error(
            f"{location.uri!r} is outside the folders this service may use.",
            hint=f"Use a path below one of: {', '.join(self._roots) or '(none is configured)'}; "
            "the service's operator sets them with BATCHMILL_ROOTS.",
            path=location.uri,
        )

    def holds(self, location: Location) -> bool:
        """Whether a location, its links followed, is inside the roots."""
        place = _place(location)
        return bool(place) and any(is_below(place, root) for root in self._roots)

    def refuse_overlap(self, private: Location) -> None:
        """Raise `InvalidSettings` if a root contains the blob store or is in it; links are followed."""
        place = _place(private)
        for root in self._roots:
            if is_below(place, root) or is_below(root, place):
                raise InvalidSettings(
                    f"the blob store {private.uri} and the root {root} overlap: jobs could read and overwrite what "
                    "others have stored.",
                    hint="Give BATCHMILL_BLOB_ROOT and BATCHMILL_ROOTS folders of which none is in another.",
                    name="BATCHMILL_ROOTS",
                )

    def _objects(self, scheme: str) -> ObjectStores:
        if scheme not in self._stores:
            from batchmill.storage.objects import ObjectStores, s3_options  # only who needs it loads obstore

            options = s3_options(self._s3_endpoint, self._s3_region) if scheme == "s3" else {}
            self._stores[scheme] = ObjectStores(scheme, options)
        return self._stores[scheme]


def _split(uri: str, error: type[BatchmillError]) -> tuple[str, str]:
    """The scheme, "" for a local path, and the path in its file system's terms."""
    found = _URI.fullmatch(uri)
    if found is None:
        return "", _local_path(uri, error)
    scheme, rest = found[1].lower(), found[2]
    if scheme != "file" and scheme not in _REMOTE:  # the message repeats nothing that may be a password
        raise error(
            f"the scheme {scheme}:// of a URI is not supported.",
            hint=_OTHER_NAMES.get(scheme, "Expected a path, file://, s3://, gs:// or az://."),
        )
    if "@" in rest.partition("/")[0]:  # the message must not repeat what may be a password
        raise error(f"a {scheme}:// URI holds a user name or keys.", hint="Keys come from the environment only.")
    if _QUERY.search(rest):
        raise error(f"a {scheme}:// URI holds a query.", hint="Options are settings of the service; leave out '?…'.")
    if scheme == "file":
        return "", _file_path(uri, rest, error)
    return scheme, _object_path(uri, rest, error)


def _file_path(uri: str, rest: str, error: type[BatchmillError]) -> str:
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise error(f"{uri!r} names another host; expected file:///path.", path=uri)
    try:
        return _local_path(unquote(slash + path, errors="strict"), error)
    except UnicodeDecodeError:
        raise error(f"{uri!r} holds percent-encoded bytes that are no UTF-8.", path=uri) from None


def _local_path(path: str, error: type[BatchmillError]) -> str:
    _refuse_unprintable(path, error)
    if not path.startswith("/"):
        raise error(f"{path!r} is no absolute path.", hint="Expected /a/path or a URI like s3://bucket/key.", path=path)
    too_long = next((part for part in path.split("/") if len(os.fsencode(part)) > MAX_NAME_BYTES), None)
    if too_long is not None:
        raise error(
            f"{path[:80]!r}… has a name of {len(os.fsencode(too_long))} bytes; file systems take at most "
            f"{MAX_NAME_BYTES}.",
            hint="Give the file or folder a shorter name.",
        )
    return "/" + os.path.normpath(path).lstrip("/")


def _object_path(uri: str, rest: str, error: type[BatchmillError]) -> str:
    _refuse_unprintable(rest, error)
    bucket, *parts = rest.removesuffix("/").split("/")
    if not _BUCKET.fullmatch(bucket):
        raise error(f"{uri!r} names no bucket.", hint="Expected s3://bucket/key.", path=uri)
    if any(part in ("", ".", "..") for part in parts):
        raise error(f"{uri!r} holds '//', '.' or '..'.", hint="Write the object's key as it is.", path=uri)
    return "/".join([bucket, *parts])


def _refuse_unprintable(path: str, error: type[BatchmillError]) -> None:
    shown = path.encode("utf-8", "backslashreplace").decode()
    if "\0" in path or shown != path:
        raise error(f"{shown!r} holds a character that no path may hold.", path=shown.replace("\0", "\\0"))


def _endpoint(address: str) -> str:
    split = urlsplit(address)
    if split.scheme not in ("http", "https") or not split.hostname or split.username is not None:
        raise InvalidSettings(
            "BATCHMILL_S3_ENDPOINT is no address of a service.",
            hint="Expected http://host:port or https://host:port, without keys in it.",
            name="BATCHMILL_S3_ENDPOINT",
        )
    return address


def _root(root: str) -> str:
    if root in UNRESTRICTED:
        return root
    scheme, path = _split(root, InvalidSettings)
    return f"{scheme}://{path}" if scheme else os.path.realpath(path)


def _place(location: Location) -> str:
    """The true place of a location in the form of the roots; "" if it is none."""
    if location.objects is None:
        try:
            return real_path(location.path)
        except OSError:
            return ""
    if any(part in (".", "..") for part in location.path.split("/")):
        return ""
    return f"{location.objects.scheme}://{location.path}"
