"""Converted models on the disk of a worker machine, shared by its processes.

1. An entry is a folder, named after a digest of what it was made from. It is filled beside its place and then renamed,
   so that others see all of it or nothing.
2. Whoever uses or makes an entry holds a lock on it meanwhile; so it is made once, however many processes need it, and
   a process that is killed leaves no lock. There is a bounded number of lock files: keys share them.
3. After an entry is made, the least recently used ones go until the rest is within the limit; one that is locked stays.
   What is loaded from an entry that goes remains usable, because the files stay open.
4. What a killed process has left unfinished is deleted by the next one that makes an entry under the same lock.

Without a usable folder, entries are temporary: nothing is shared, and nothing fails. `auto` then does not convert.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import secrets
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

log = logging.getLogger(__name__)

_UNFINISHED = ".tmp"


def key_of(parts: Sequence[str]) -> str:
    """Return the key of what is made from these parts: 32 hexadecimal digits."""
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()


class ConvertedModels:
    """The entries in a folder.

    folder: None: every entry is temporary. max_bytes: of all entries together; one that is larger is kept alone.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int = 0) -> None:
        self._folder = folder if max_bytes else None
        self._max_bytes = max_bytes

    @contextmanager
    def entry(self, key: str, make: Callable[[Path], None]) -> Iterator[Path]:
        """Return the folder of an entry, and keep it there while the context lasts.

        make: fills an empty folder; called if there is no such entry. Raises what `make` raises.
        """
        lock = self._lock(key)
        if lock is None or self._folder is None:
            with tempfile.TemporaryDirectory(prefix="batchmill-model-") as temporary:
                make(Path(temporary))
                yield Path(temporary)
            return
        with lock:
            folder = self._folder / key
            if not folder.is_dir():
                self._fill(folder, make)
                self._sweep(kept=folder)
            os.utime(folder)
            yield folder

    @property
    def are_stored(self) -> bool:
        """Whether entries outlast their use."""
        return self._folder is not None

    def has(self, key: str) -> bool:
        """Whether there is an entry now."""
        return self._folder is not None and (self._folder / key).is_dir()

    def drop(self, key: str) -> None:
        """Delete an entry that is broken."""
        if self._folder is not None:
            shutil.rmtree(self._folder / key, ignore_errors=True)

    def _lock(self, key: str, *, wait: bool = True) -> IO[bytes] | None:
        """Lock an entry until the file is closed; None if it cannot be locked, or not now."""
        if self._folder is None:
            return None
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = (self._folder / f"lock-{key[0]}").open("ab")
        except OSError as error:
            log.warning("converted models are not stored: %s cannot be used (%s)", self._folder, error.strerror)
            return None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            file.close()
            return None
        return file

    def _fill(self, folder: Path, make: Callable[[Path], None]) -> None:
        for unfinished in folder.parent.glob(f".{folder.name[0]}*{_UNFINISHED}"):
            shutil.rmtree(unfinished, ignore_errors=True)
        beside = folder.with_name(f".{folder.name}.{secrets.token_hex(8)}{_UNFINISHED}")
        beside.mkdir(mode=0o700)
        try:
            make(beside)
            for path in beside.iterdir():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
            beside.rename(folder)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise

    def _sweep(self, *, kept: Path) -> None:
        entries = [path for path in kept.parent.iterdir() if path.is_dir() and not path.name.startswith(".")]
        sizes = {entry: _size(entry) for entry in entries}
        over = sum(sizes.values()) - self._max_bytes
        for entry in sorted(entries, key=_used_at):
            if over <= 0:
                return
            lock = None if entry == kept else self._lock(entry.name, wait=False)
            if lock is not None:
                with lock:
                    shutil.rmtree(entry, ignore_errors=True)
                over -= sizes[entry]


def _size(folder: Path) -> int:
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except OSError:  # another process sweeps too
        return 0


def _used_at(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
