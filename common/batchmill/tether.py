"""Ties a process to its parent: `python -m batchmill.tether COMMAND …` runs COMMAND, which ends when its parent dies.

A service that is killed outright cannot stop its children; the kernel then does (Linux' PR_SET_PDEATHSIG, which an
`exec` keeps). Elsewhere the command runs untied.
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


def tethered(command: Sequence[str]) -> list[str]:
    """The command line that runs `command` tied to the process that starts it."""
    return [sys.executable, "-m", "batchmill.tether", str(os.getpid()), *command]


def main() -> None:
    """Tie this process to its parent and become the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before the tie was made
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606  # becoming the command is the point


if __name__ == "__main__":
    main()
