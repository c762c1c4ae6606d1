"""What a watched folder has, and whether it is still the folder that was watched.

A mount that vanishes leaves an empty folder under the same path. Its files are not gone, and they are not new when they
are back. So when no known file is there any more, the folder must be the one that had them:

1. A planner notes the folder's number on its file system (inode), and which file system that is (device).
2. Another inode on another device is another folder: its job waits. An inode stays through restarts and on other
   machines, where devices have other numbers.
3. Another inode on the same device is a folder that somebody has put in the place of the former one, and another path
   behind a link is one that somebody has chosen: their files count.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from batchmill.errors import NotFound, StorageError, StreamUnavailable
from batchmill.storage.anchors import real_path

if TYPE_CHECKING:
    from collections.abc import Collection

    from pyarrow import fs

    from batchmill.storage.blobs import BlobStore
    from batchmill.storage.locations import Location

log = logging.getLogger(__name__)


class _Identity(NamedTuple):
    """Which folder is at a path, links followed."""

    path: str
    device: int
    inode: int

    def is_other(self, found: _Identity | None) -> bool:
        """Whether what is found now is not this folder, and nobody has put it there on purpose."""
        if found is None:
            return True
        return self.path == found.path and self.inode != found.inode and self.device != found.device


class WatchedPlace:
    """The folder of a job. For one thread. note: the name of the blob that says which folder it is."""

    def __init__(self, title: str, location: Location, blobs: BlobStore, note: str) -> None:
        self._title = title
        self._location = location
        self._blobs = blobs
        self._note = note
        self._seen: _Identity | None = None
        self._noted: _Identity | None = None  # what this process has written
        self._undecodable: set[str] = set()  # names that were logged

    def entries(self, known: Collection[str]) -> list[fs.FileInfo]:
        """Return what is in the folder. known: names that it had when it was looked at before.

        Raises `StreamUnavailable` if it cannot be read, or is another folder.
        """
        entries, at_start, at_end = self._look()
        self._require_there(at_start, at_end)
        if known and not any(info.base_name in known for info in entries):
            self._require_same(at_start, at_end)
        self._seen = at_end if at_start == at_end else None
        return entries

    def require_same(self, known: Collection[str]) -> None:
        """Raise `StreamUnavailable` if files are missing because the folder is another one, or not there."""
        if self._location.is_local:
            entries, at_start, at_end = self._look()
            if not any(info.base_name in known for info in entries):
                self._require_same(at_start, at_end)

    def note(self) -> None:
        """Note which folder it is, as `entries` has just found it."""
        if self._seen is not None and self._seen != self._noted:
            self._blobs.put(self._note, json.dumps(self._seen).encode())
            self._noted = self._seen

    def _look(self) -> tuple[list[fs.FileInfo], _Identity | None, _Identity | None]:
        """List the folder; return also which one it was before and after that."""
        undecodable: list[str] = []
        try:
            at_start = self._identity()
            entries = self._location.entries(undecodable=undecodable)
            at_end = self._identity()
        except (OSError, StorageError) as error:
            raise StreamUnavailable(
                f"{self._title} cannot be read: {error}", hint="Check the folder, and its permissions."
            ) from error
        for name in sorted(set(undecodable) - self._undecodable):
            log.warning("%s: a file is not read, because its name is not UTF-8: %s", self._title, name)
        self._undecodable = set(undecodable)
        return entries, at_start, at_end

    def _identity(self) -> _Identity | None:
        if not self._location.is_local:
            return None
        path = real_path(self._location.path)
        try:
            return _Identity(path, *device_and_inode(path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def _require_same(self, *found: _Identity | None) -> None:
        if not self._location.is_local:
            return
        self._require_there(*found)
        try:
            noted = _Identity(*json.loads(self._blobs.get(self._note).to_pybytes()))
        except NotFound:
            return
        if any(noted.is_other(one) for one in found):
            raise StreamUnavailable(
                f"{self._title} is another folder than before, and has none of its files.",
                hint="Mount or restore it. If its files are gone for good, cancel the job and submit a new one.",
            )

    def _require_there(self, *found: _Identity | None) -> None:
        if self._location.is_local and None in found:
            raise StreamUnavailable(f"{self._title} is not there.", hint="Create, restore or mount it.")


def device_and_inode(path: str) -> tuple[int, int]:
    """Return which file system a folder is on, and which it is there. Raises `OSError`."""
    found = Path(path).stat()
    return found.st_dev, found.st_ino
