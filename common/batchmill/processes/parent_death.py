"""Makes a process die with its parent, and pins it to its cores.

`python -m batchmill.processes.parent_death PARENT CORES COMMAND …` becomes COMMAND.

A service that is killed outright cannot stop its children, so the kernel does it (Linux' PR_SET_PDEATHSIG, which
survives an `exec`). Cores are set here, before the command begins, because libraries start their threads when they are
imported. On other systems the command runs without either.

Rejected: `preexec_fn` of `subprocess.Popen`, which runs Python between fork and exec and can deadlock in a process
with threads; and a thread of the child that watches its parent, which does not run while native code holds the
interpreter's lock.
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


def die_with_parent(command: Sequence[str], cores: Sequence[int] | None = None) -> list[str]:
    """Return a command line that runs `command` and ends it when the calling process dies.

    cores: the logical cores to pin it to; None: any.
    """
    where = ANY_CORE if cores is None else ",".join(map(str, cores))
    return python_module("batchmill.processes.parent_death", str(os.getpid()), where, *command)


def python_module(module: str, *arguments: str) -> list[str]:
    """Return the command line that runs a module with this Python, and no file of the current folder in its place."""
    return [sys.executable, "-P", "-m", module, *arguments]


def main() -> None:
    """Register the parent-death signal, pin the cores, and become the command. Exit with 1 if the parent is gone."""
    parent, cores, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the signal was registered
            sys.exit(1)
        if cores != ANY_CORE:
            _pin([int(core) for core in cores.split(",")])
    os.execvp(command[0], command)  # noqa: S606  # becoming the command is the point


def _pin(cores: Sequence[int]) -> None:
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:  # a core was removed meanwhile: running on any core is better than not at all
        sys.stderr.write(f"could not run on the cores {cores}: {error.strerror}\n")


if __name__ == "__main__":
    main()
