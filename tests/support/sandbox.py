"""A user's machine in a temp folder, and the blocks of a page of the documentation."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from support.processes import command_line
from support.waiting import until

MARK = "ACCEPTANCE_SANDBOX"


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, and what the comment above it says."""

    kind: str  # "sh", "python", …
    text: str
    run: str | None  # its name, if it is to be run


class Sandbox:
    """A home and a working folder. What is started in it bears its mark, and is ended with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self._mark = secrets.token_hex(8)
        self._started: list[subprocess.Popen[bytes]] = []
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BATCHMILL_", "XDG_"))}
        self.env = kept | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "XDG_DATA_HOME": str(folder / "share"),
            "BATCHMILL_DATA_DIR": str(self.data),
            MARK: self._mark,
        }

    def run(self, command: str, *, timeout_s: float = 480.0, **env: str) -> str:
        """What a shell command writes to its standard output. It must end with 0."""
        done = subprocess.run(
            ["bash", "-eu", "-c", command],
            cwd=self.folder,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0, f"{command}\nended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, command: str, *, writes: str) -> subprocess.Popen[bytes]:
        """Start the last line of a shell command and leave it running, once it has written the text `writes`."""
        before, _, last = command.rstrip().rpartition("\n")
        log = self.folder / f"started-{len(self._started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-eu", "-c", f"{before}\nexec {last}"],
                cwd=self.folder,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._started.append(process)

        def has_written() -> bool:
            assert process.poll() is None, f"{last} ended:\n{log.read_text()}"
            return writes in log.read_text()

        until(has_written, f"{writes!r} from {last}")
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill what was started, outright; what it had started must end by itself."""
        self._started.remove(process)
        process.kill()
        process.wait()
        until(lambda: self.left_behind() == [], "the end of what it had started")

    def close(self) -> None:
        """End what was started, the last first. Nothing may be left, and all must have ended well."""
        codes = []
        for process in reversed(self._started):
            process.terminate()
            try:
                codes.append(process.wait(60))
            except subprocess.TimeoutExpired:
                process.kill()
                codes.append(process.wait())
        assert self.left_behind() == []
        assert set(codes) <= {0, -signal.SIGTERM}  # uvicorn raises the signal again once it has shut down

    def left_behind(self) -> list[str]:
        """The command lines of processes that bear the mark."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == self._mark:
                    found.append(command_line(process))
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found
