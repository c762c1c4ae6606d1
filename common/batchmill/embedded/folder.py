"""The data folder of an embedded service: its layout and its lock."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from batchmill.errors import InvalidSettings, StorageError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """The address of a running service."""

    url: str
    token: str
    pid: int


class DataFolder:
    """A folder with all data of one embedded service. Only this user can read it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.valkey = path / "valkey"
        self.blobs = path / "blobs"
        self.logs = path / "logs"
        self._record = path / "service.json"
        self._lock: IO[str] | None = None

    def lock(self) -> None:
        """Create and lock the folder. Raises `InvalidSettings` when another service uses it, and `StorageError`."""
        try:
            for folder in (self.path, self.valkey, self.blobs, self.logs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self.path / "lock").open("a+")
        except OSError as error:
            raise StorageError(
                f"the data folder {self.path} cannot be used ({error.strerror}).", hint="Give another with --data-dir."
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise InvalidSettings(
                f"a Batchmill service already runs in {self.path}.",
                hint="Use it, stop it, or start another one with its own --data-dir.",
            ) from None
        self._lock = lock

    def token(self) -> str:
        """Return the service's token; create it the first time."""
        path = self.path / "token"
        if not path.exists():
            _write_private(path, secrets.token_urlsafe(32))
        return path.read_text().strip()

    def write_record(self, record: ServiceRecord) -> None:
        """Write the address of the running service."""
        body = json.dumps({"url": record.url, "token": record.token, "pid": record.pid})
        _write_private(self._record, body)

    def release(self) -> None:
        """Delete the address and unlock the folder."""
        self._record.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, atomically."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)
