"""`batchmill.local()`: an embedded service for the duration of a `with` block."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from batchmill.errors import ServiceUnavailable
from batchmill.processes.parent_death import python_module

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchmill.client import Client

STOP_TIMEOUT_S = 60.0


@contextmanager
def local(
    workers: int | Literal["auto"] = 1,
    data_dir: str | Path | None = None,
    operators: Sequence[str] = (),
    *,
    devices: str = "cpu",
) -> Iterator[Client]:
    """Run a service on this machine for the length of a `with` block.

    Args:
        workers: Worker processes on each device; `"auto"`: as many as there is work for, up to one for each core.
        data_dir: Folder for its data. It is kept: unfinished jobs resume when the folder is used again. None: a
            temporary folder, removed at the end.
        operators: Names of modules that the workers import.
        devices: Devices to use, as in `batchmill worker --devices`; `"auto"` takes the GPUs, if there are any.

    Yields:
        A client of the service.

    Raises:
        MissingExtra: The services are not installed.
        InvalidSettings: Another service already uses `data_dir`.
        ServiceUnavailable: The service did not start; the message has the reason.
    """
    from batchmill.client import Client

    folder = (
        Path(data_dir).expanduser().absolute() if data_dir is not None else Path(tempfile.mkdtemp(prefix="batchmill-"))
    )
    try:
        process = _start(["--workers", str(workers), "--devices", devices], folder, operators)
        try:
            url, token = _reached(process)
            with Client(url, token) as client:
                yield client
        finally:
            _stop(process)
    finally:
        if data_dir is None:
            shutil.rmtree(folder, ignore_errors=True)


def _start(workers: Sequence[str], folder: Path, operators: Sequence[str]) -> subprocess.Popen[str]:
    modules = [part for module in operators for part in ("--operators", module)]
    command = ["up", "--data-dir", str(folder), *workers, "--port", "0", "--tied", *modules]
    return subprocess.Popen(  # noqa: S603  # our own command
        python_module("batchmill", *command),
        stdin=subprocess.PIPE,  # held open by this process only: when it closes, for whatever reason, the service stops
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _reached(process: subprocess.Popen[str]) -> tuple[str, str]:
    assert process.stdout is not None  # noqa: S101  # it was asked for
    line = process.stdout.readline()
    if not line:
        _, output = process.communicate()
        raise ServiceUnavailable(f"the embedded service did not start: {output.strip().removeprefix('error: ')}")
    record = json.loads(line)
    return record["url"], record["token"]


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        try:
            process.communicate(timeout=STOP_TIMEOUT_S)  # closes its standard input, which stops it
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
