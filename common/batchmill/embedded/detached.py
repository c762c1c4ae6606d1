"""The embedded service in the background: started so that it outlives its terminal, and stopped from another one."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.embedded.folder import DataFolder, ServiceRecord
from batchmill.errors import BatchmillError
from batchmill.processes.parent_death import python_module

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 180.0  # longer than three processes may take to stop
POLL_INTERVAL_S = 0.05
LOG = "up.log"


@dataclass(frozen=True, slots=True)
class Started:
    """The outcome of a start. output: what the service printed. record, code: None where the start failed, or not."""

    output: str
    record: ServiceRecord | None = None
    code: int | None = None


def start_detached(arguments: Sequence[str], folder: Path) -> Started:
    """Start `batchmill ARGUMENTS`, an `up` over `folder`, in a session of its own.

    Returns when it runs or has failed.
    """
    data = DataFolder(folder)
    data.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = data.logs / LOG
    with path.open("ab") as log:
        begin = log.tell()
        process = subprocess.Popen(  # noqa: S603  # our own command
            python_module("batchmill", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    ends_at = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < ends_at:
        code = process.poll()
        record = data.running()
        if code is not None or (record is not None and record.pid == process.pid):
            return Started(_text(path, begin), record if code is None else None, code)
        time.sleep(POLL_INTERVAL_S)
    process.terminate()
    raise BatchmillError(f"the service did not start within {START_TIMEOUT_S:.0f} s.", hint=f"Its log is {path}.")


def stop_service(folder: Path) -> bool:
    """Stop the service over `folder` and wait until it has ended; return False if none runs."""
    data = DataFolder(folder)
    record = data.running()
    if record is None:
        return False
    with suppress(ProcessLookupError):
        os.kill(record.pid, signal.SIGTERM)
    ends_at = time.monotonic() + STOP_TIMEOUT_S
    while data.running() == record:
        if time.monotonic() > ends_at:
            raise BatchmillError(
                f"the service (process {record.pid}) did not stop within {STOP_TIMEOUT_S:.0f} s.",
                hint=f"Its logs are in {data.logs}.",
            )
        time.sleep(POLL_INTERVAL_S)
    return True


def _text(path: Path, begin: int) -> str:
    with path.open("rb") as file:
        file.seek(begin)
        return file.read().decode(errors="replace")
