"""A Batchmill service from its single parts, so that peers can share its Valkey and its processes can be looked at.

The embedded service (`batchmill.local`) starts the same commands with the same settings.
"""

from __future__ import annotations

import json
import secrets
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batchmill.client import Client
from batchmill.embedded.valkey import valkey_command
from batchmill.processes.children import ChildSpec, ProcessSupervisor, describe_exit

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping, Sequence

START_S = 60.0
STOP_S = 40.0
POLL_INTERVAL_S = 0.02
REPOSITORY = Path(__file__).resolve().parent.parent


class Processes:
    """Processes of one benchmark over one folder; all end with the context, or when this process dies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._processes = ProcessSupervisor()

    def start(
        self, name: str, command: Sequence[str], env: Mapping[str, str], is_ready: Callable[[], bool]
    ) -> subprocess.Popen[bytes]:
        """Start a process, and wait until it is ready. Raises `RuntimeError` with its log when it does not get so."""
        log = self.folder / f"{name}.log"
        process = self._processes.start(ChildSpec(name, command, env, log))
        ends_at = time.monotonic() + START_S
        while not is_ready():
            code = process.poll()
            if code is not None or time.monotonic() > ends_at:
                reason = "was not ready in time" if code is None else describe_exit(code)
                raise RuntimeError(f"{name} {reason}; it said:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(POLL_INTERVAL_S)
        return process

    def stop(self, name: str | None = None) -> None:
        """Stop the process of that name, or all at once."""
        self._processes.stop(STOP_S, name)


@contextmanager
def processes(folder: Path) -> Iterator[Processes]:
    """Processes that end with the block."""
    started = Processes(folder)
    try:
        yield started
    finally:
        started.stop()


def start_valkey(run: Processes) -> Path:
    """Start a Valkey as the embedded service does; its socket."""
    data = run.folder / "valkey"
    data.mkdir()
    socket = run.folder / "valkey.sock"
    run.start("valkey", valkey_command(data, socket), {}, socket.exists)
    return socket


@dataclass(frozen=True, slots=True)
class Service:
    """A running service."""

    client: Client
    socket: Path  # of its Valkey; Batchmill uses database 0
    coordinator_pid: int
    settings: Mapping[str, str]  # of its parts


@contextmanager
def service(
    run: Processes,
    workers: int,
    supervisors: int = 1,
    *,
    operators: str = "",
    env: Mapping[str, str] | None = None,
    token: str = "",
    more_settings: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """A Valkey, a coordinator and supervisors with `workers` processes each, and a client of them.

    operators: a module that the workers import. env: more environment of theirs. token: the client's; "": a new one,
    the only one that is let in. more_settings: of all parts.
    """
    socket = start_valkey(run)
    token = token or secrets.token_urlsafe(16)
    settings = {
        "BATCHMILL_REDIS_URL": f"unix://{socket}?db=0",
        "BATCHMILL_BLOB_ROOT": str(run.folder / "blobs"),
        "BATCHMILL_UNRESTRICTED": "true",
        "BATCHMILL_TOKENS": token,
        **(more_settings or {}),
    }
    ready = run.folder / "coordinator.json"
    command = _command("coordinator", "--port", "0", ready_file=ready)
    coordinator = run.start("coordinator", command, settings, ready.exists)
    for number in range(supervisors):
        start_worker(run, {**settings, **(env or {})}, f"worker-{number}", workers, operators=operators)
    with Client(json.loads(ready.read_text())["url"], token) as client:
        yield Service(client, socket, coordinator.pid, settings)


def start_worker(
    run: Processes, settings: Mapping[str, str], name: str, slots: int, *, operators: str = ""
) -> subprocess.Popen[bytes]:
    """Start a supervisor with `workers` processes, and wait until it is ready."""
    announced = run.folder / f"{name}.json"
    modules = ["--operators", operators] if operators else []
    arguments = ["--devices", "cpu", "--slots-per-device", str(slots), *modules]
    return run.start(name, _command("worker", *arguments, ready_file=announced), settings, announced.exists)


def _command(name: str, *arguments: str, ready_file: Path) -> list[str]:
    return [sys.executable, "-m", "batchmill", name, *arguments, "--ready-file", str(ready_file)]
