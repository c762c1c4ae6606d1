"""Files on a disk, written so that others see all of one or nothing, and that they outlast a power cut."""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pyarrow as pa

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK})


def is_unfinished(file_name: str) -> bool:
    """Whether a file in a folder of blobs is one that its writer has not finished."""
    return _TEMPORARY.fullmatch(file_name) is not None


def place(target: Path, fill: Callable[[str], None], mode: int | None) -> int:
    """Let `fill` write a file beside `target`, then put it in its place. Returns its size in bytes.

    mode: of the file; None: as the umask of the process says.
    """
    temporary = _beside(target)
    try:
        fill(str(temporary))
        size = _settle(temporary, mode)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(target.parent)
    return size


def create(target: Path, data: bytes, mode: int | None) -> bool:
    """Put a new file in place by a hard link, which fails if there is one. Returns whether it was put there."""
    temporary = _beside(target)
    try:
        fill_file(str(temporary), [data])
        _settle(temporary, mode)
        target.hardlink_to(temporary)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _create_unlinked(target, data, mode)
    finally:
        temporary.unlink(missing_ok=True)
    sync(target.parent)
    return True


def _create_unlinked(target: Path, data: bytes, mode: int | None) -> bool:
    """The same on a disk without hard links: still one writer, but others may see the file before it is filled."""
    try:
        file = target.open("xb")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(data)
        _settle(target, mode)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    sync(target.parent)
    return True


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder and those above it, so that they outlast a power cut."""
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent, mode)
    try:
        folder.mkdir(mode, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
    sync(folder.parent)


def remove_tree(path: str) -> None:
    """Delete a folder, even while others still write a last file into it."""
    for _ in range(10):
        try:
            shutil.rmtree(path)
        except FileNotFoundError:
            if not Path(path).exists():
                return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
        else:
            return
    shutil.rmtree(path)


def fill_file(path: str, pieces: Sequence[bytes | pa.Buffer]) -> None:
    """Write a new file from several pieces in a row."""
    with Path(path).open("xb") as file:
        file.writelines(pieces)


def _beside(target: Path) -> Path:
    """A new name in the same folder, which `is_unfinished` knows."""
    return target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")


def _settle(file: Path, mode: int | None) -> int:
    """Force a file that was written to the disk, with its mode. Returns its size in bytes."""
    if mode is not None:
        file.chmod(mode)
    return sync(file, os.O_NOFOLLOW | os.O_NONBLOCK)


def sync(path: Path, flags: int = 0) -> int:
    """Force a file or folder to the disk. Returns its size in bytes."""
    descriptor = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
