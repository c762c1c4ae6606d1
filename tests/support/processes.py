"""The processes that tests look at, which may end while they do."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import psutil


def command_line(process: psutil.Process) -> str:
    """Its command line; "" once it has ended, waited for or not."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def children_with(word: str, parent: int | None = None, *, recursive: bool = False) -> list[psutil.Process]:
    """Return the children of a process, this one by default, that live and have a word in their command lines.

    recursive: their children, too.
    """
    return [child for child in psutil.Process(parent).children(recursive=recursive) if word in command_line(child)]


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python of its own, which has a minute."""
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
