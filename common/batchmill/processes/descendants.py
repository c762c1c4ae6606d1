"""Ends what a process has started: its group, and on Linux every process that carries its mark in its environment.

A helper that moved to a session of its own is in no group of its parent's any more, but it has inherited the mark; one
that started without that environment is still in the group.

Rejected: a parent that adopts orphans (PR_SET_CHILD_SUBREAPER). It cannot distinguish those of a live child from a
dead one's. And a control group for each process, which needs rights that a container mostly lacks.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MARK = "_BATCHMILL_PROCESS"  # no setting: those begin with BATCHMILL_
MAX_SWEEPS = 5
"""Sweeps for processes that others start while they are being ended."""


def end_descendants(group: int, mark: str) -> None:
    """Kill all processes of a group and those with a mark, except the calling one."""
    for _ in range(MAX_SWEEPS):
        pids = set(_members(group, mark)) - {os.getpid()}
        for pid in pids:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not pids:
            break
    if group != os.getpgrp():
        with suppress(ProcessLookupError, PermissionError):  # where there is no /proc
            os.killpg(group, signal.SIGKILL)


def _members(group: int, mark: str) -> Iterator[int]:
    marked = f"{MARK}={mark}".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            pid = int(entry.name)
            if _is_running(entry) and (os.getpgid(pid) == group or marked in _environment(entry)):
                yield pid


def _is_running(entry: Path) -> bool:
    """Whether it is no zombie."""
    return (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[0] not in ("Z", "X")


def _environment(entry: Path) -> list[bytes]:
    return (entry / "environ").read_bytes().split(b"\0")
