"""A disk of its own below a folder, which tests fill: a tmpfs. Needs Linux and root."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, Self

from support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 512 * 1024**2


def disks_are_permitted(folder: Path) -> bool:
    """Whether this process may mount disks. folder: an empty one to try it with."""
    if os.geteuid() != 0 or _mount("-t", "tmpfs", "-o", "size=4k", "tmpfs", str(folder)) != 0:
        return False
    subprocess.run(["umount", folder], check=True)
    return True


class SmallDisk:
    """A disk at a folder, which is made. A context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        assert _mount("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)) == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "--lazy", self._folder], check=True)

    def fill(self) -> None:
        """Leave no room for more than there is; what is deleted makes room again."""
        until(lambda: self._resize(self._used()), "a full disk")

    def free(self) -> None:
        """Make room again."""
        assert self._resize(SIZE)

    def _used(self) -> int:
        found = os.statvfs(self._folder)
        return (found.f_blocks - found.f_bfree) * found.f_frsize

    def _resize(self, size: int) -> bool:
        """Resize it; False if it has more than that by now."""
        return _mount("-o", f"remount,size={max(size, 4096)}", str(self._folder)) == 0


def _mount(*arguments: str) -> int:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode
