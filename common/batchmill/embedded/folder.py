"""The data folder of an embedded service: its layout and its lock."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING

from batchmill.errors import InvalidSettings, StorageError
from batchmill.settings import PREFIX, default_data_dir

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """What other processes of this user need to reach a running service, in the file `service.json`."""

    url: str
    token: str = field(repr=False)
    pid: int
    redis_url: str
    blob_root: str


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
        """Write the record of the running service."""
        _write_private(self._record, json.dumps(asdict(record)))

    def running(self) -> ServiceRecord | None:
        """Return the record of the service that runs over this folder; None if none does."""
        try:
            record = ServiceRecord(**json.loads(self._record.read_text()))
        except (FileNotFoundError, ValueError, TypeError):  # none, or it is starting, or of another version
            return None
        return record if self._is_locked() else None  # looked at last: it must not be in the way of a start

    def _is_locked(self) -> bool:
        """Whether a process has the folder's lock, which ends with the process however it ends."""
        try:
            with (self.path / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def release(self) -> None:
        """Delete the address and unlock the folder."""
        self._record.unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def join_running_service(chosen: Mapping[str, str | None]) -> ServiceRecord | None:
    """Point the settings of this process to the service that `batchmill up` runs over the default data folder.

    Nothing changes, and None is returned, when `chosen` (options of the command) or the environment names a Redis or a
    blob store, or when no such service runs.
    """
    names = ("redis_url", "blob_root")
    if any(chosen.get(name) or os.environ.get(PREFIX + name.upper()) for name in (*names, "secrets_dir")):
        return None
    record = DataFolder(default_data_dir()).running()
    if record is not None:
        os.environ[f"{PREFIX}REDIS_URL"] = record.redis_url
        os.environ[f"{PREFIX}BLOB_ROOT"] = record.blob_root
        os.environ.setdefault(f"{PREFIX}UNRESTRICTED", "true")
    return record


def _write_private(path: Path, text: str) -> None:
    """Write a file that only this user can read, atomically."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)
