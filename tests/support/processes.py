"""The processes that tests look at, which may end while they do."""

from __future__ import annotations

import psutil


def command_line(process: psutil.Process) -> str:
    """Its command line; "" once it has ended, waited for or not."""
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def children_with(word: str, parent: int | None = None) -> list[psutil.Process]:
    """Return the children of a process, this one by default, that live and have a word in their command lines."""
    return [child for child in psutil.Process(parent).children() if word in command_line(child)]
