"""Files below a root, reached so that no link can lead out of it between the check of a path and its use.

Whoever may make links in a root could put one into the place of a folder after its path was checked. So a path's links
are followed first, and its folder is then opened part by part from the root, following no link any more. What is done
next goes through the open folder, wherever its name may lead by then: `/proc/self/fd/N/NAME`. Where there is no such
path, which is not Linux, files are used by their names.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from batchmill.storage.disk import sync

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_DESCRIPTORS = Path("/proc/self/fd")
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_MAX_TRIES = 20
IS_POSSIBLE = _DESCRIPTORS.is_dir()


@contextmanager
def anchored(path: str, roots: Sequence[str], *, make: bool = False) -> Iterator[Path]:
    """Yield a path for the same file, to be used meanwhile in this process; its last part is taken as it is.

    make: make the missing folders above it. Raises `OSError`: `EACCES` if its folder is outside the roots.
    """
    folder, _, name = path.rpartition("/")
    with anchored_folder(folder or "/", roots, make=make) as place:
        yield place / name


@contextmanager
def anchored_folder(path: str, roots: Sequence[str], *, make: bool = False) -> Iterator[Path]:
    """The same for a folder and everything in it."""
    descriptor = _open_folder(real_path(path), roots, make=make)
    try:
        yield _DESCRIPTORS / str(descriptor)
    finally:
        os.close(descriptor)


def open_anchored(path: str, roots: Sequence[str]) -> int:
    """Open a regular file for reading, links to it followed; returns a descriptor. Raises `OSError`."""
    real = real_path(path)
    folder, _, name = real.rpartition("/")
    parent = _open_folder(folder or "/", roots, make=False)
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
    finally:
        os.close(parent)
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        number = errno.EISDIR if stat.S_ISDIR(kind) else errno.EINVAL
        raise OSError(number, os.strerror(number), path)
    return descriptor


def path_of(descriptor: int) -> str:
    """Return a path that opens the file of a descriptor again."""
    return str(_DESCRIPTORS / str(descriptor))


def real_path(path: str) -> str:
    """Follow the links in a path. Raises `OSError`: `EACCES` for one whose parts change all the time."""
    for _ in range(_MAX_TRIES):
        try:
            return os.path.realpath(path)
        except OSError as error:  # what was a link a moment ago is none any more
            if error.errno != errno.EINVAL:
                raise
    raise _denied(path)


def is_below(place: str, root: str) -> bool:
    """Whether a path or URI without links is a root, or below it."""
    return place == root or place.startswith(root if root.endswith("/") else root + "/")


def _open_folder(real: str, roots: Sequence[str], *, make: bool) -> int:
    root = max((one for one in roots if is_below(real, one)), key=len, default=None)
    if root is None:
        raise _denied(real)
    descriptor = os.open(root, _FOLDER)
    for name in filter(None, real[len(root) :].split("/")):
        try:
            below = _open_part(descriptor, name, make=make)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def _denied(path: str) -> PermissionError:
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


def _open_part(folder: int, name: str, *, make: bool) -> int:
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
    except FileNotFoundError:
        if not make:
            raise
    try:
        os.mkdir(name, dir_fd=folder)
    except FileExistsError:
        pass  # another writer has made it
    else:
        sync(Path(path_of(folder)))
    return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=folder)
