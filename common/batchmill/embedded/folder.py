"""The data folder of an embedded service: what lies where, and whose it is."""

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
    """How a running service is reached."""

    url: str
    token: str
    pid: int


class DataFolder:
    """A folder that holds all data of one embedded service. Only this user can read it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.valkey = path / "valkey"
        self.blobs = path / "blobs"
        self.logs = path / "logs"
        self._record = path / "service.json"
        self._lock: IO[str] | None = None

    def take(self) -> None:
        """Make the folder, and hold it against others. Raises `InvalidSettings` when a service runs over it."""
        try:
            for folder in (self.path, self.valkey, self.blobs, self.logs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self.path / "lock").open("a+")
        except OSError as error:
            raise StorageError(
                f"the data folder {self.path} cannot be used ({error.strerror}).", hint="Name another with --data-dir."
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise InvalidSettings(
                f"a Batchmill service already runs over {self.path}.",
                hint="Use it, stop it, or start another one with its own --data-dir.",
            ) from None
        self._lock = lock

    def token(self) -> str:
        """The service's token, made once."""
        path = self.path / "token"
        if not path.exists():
            _write_private(path, secrets.token_urlsafe(32))
        return path.read_text().strip()

    def tell(self, record: ServiceRecord) -> None:
        """Write down how the service is reached."""
        body = json.dumps({"url": record.url, "token": record.token, "pid": record.pid})
        _write_private(self._record, body)

    def release(self) -> None:
        """Forget how the service was reached, and let others have the folder."""
        self._record.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, in one step."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)
