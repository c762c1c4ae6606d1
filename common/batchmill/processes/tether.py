"""Ties a process to its parent and to its cores.

`python -m batchmill.processes.tether PARENT CORES COMMAND …` becomes COMMAND.

A service that is killed outright cannot stop its children; the kernel then does (Linux' PR_SET_PDEATHSIG, which an
`exec` keeps). Cores are set here, before the command begins, because libraries start their threads when they are
imported. Elsewhere the command runs untied.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

PR_SET_PDEATHSIG = 1
ANY_CORE = "any"


def tethered(command: Sequence[str], cores: Sequence[int] | None = None) -> list[str]:
    """The command line that runs `command` tied to the process that starts it, and to `cores` if any are given."""
    where = ANY_CORE if cores is None else ",".join(map(str, cores))
    return python_module("batchmill.processes.tether", str(os.getpid()), where, *command)


def python_module(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module with this Python, and no Python file of the current folder in its place."""
    return [sys.executable, "-P", "-m", module, *arguments]


def main() -> None:
    """Tie this process to its parent and its cores, and become the command."""
    parent, cores, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the tie was made
            sys.exit(1)
        if cores != ANY_CORE:
            _pin([int(core) for core in cores.split(",")])
    os.execvp(command[0], command)  # noqa: S606  # becoming the command is the point


def _pin(cores: Sequence[int]) -> None:
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:  # a core was taken away meanwhile: running on any is better than not at all
        sys.stderr.write(f"could not run on the cores {cores}: {error.strerror}\n")


if __name__ == "__main__":
    main()
