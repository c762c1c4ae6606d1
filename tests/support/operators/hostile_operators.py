"""Operators that do to their process what people's code was reported to do."""

from __future__ import annotations

import asyncio
import ctypes
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import batchmill

HELPER = "helper-of-a-hostile-operator"


class PanicException(BaseException):
    """As libraries in Rust raise it."""


RAISED: dict[str, type[BaseException]] = {
    "exit": SystemExit,
    "interrupt": KeyboardInterrupt,
    "cancelled": asyncio.CancelledError,
    "generator_exit": GeneratorExit,
    "panic": PanicException,
}


def misbehave(how: str) -> None:
    """Raise something, or die, or hang."""
    match how:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            threading.Event().wait()
        case "hold_lock":  # native code that never lets another thread run
            while True:
                ctypes.PyDLL(None).pause()
        case _:
            raise RAISED[how]("as asked")


@batchmill.operator("ordinary", columns=["id"])
def ordinary(rows: list[dict[str, Any]]) -> list[Any]:
    """Returns the id."""
    return [{"out": row["id"]} for row in rows]


@batchmill.operator("hostile", columns=["id"], batch_size=8)
class Hostile:
    """Misbehaves in one hook: for the row `at`, or in any case where the hook has no rows."""

    def __init__(self, *, hook: str, how: str, at: int = 0) -> None:
        self._hook, self._how, self._at = hook, how, at
        self._meet("constructor", [{"id": at}])

    def _meet(self, hook: str, rows: list[dict[str, Any]]) -> None:
        if hook == self._hook and any(row["id"] == self._at for row in rows):
            misbehave(self._how)

    def setup(self, device: str) -> None:  # noqa: ARG002  # the contract
        self._meet("setup", [{"id": self._at}])

    def memory_bytes(self) -> int:
        self._meet("memory_bytes", [{"id": self._at}])
        return 1

    def costs(self, rows: list[dict[str, Any]]) -> list[float]:
        self._meet("costs", rows)
        return [1.0] * len(rows)

    def prepare(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self._meet("prepare", rows)
        return rows

    def infer(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self._meet("infer", rows)
        return rows

    def finish(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        self._meet("finish", rows)
        return [{"out": row["id"]} for row in rows]

    def teardown(self) -> None:
        self._meet("teardown", [{"id": self._at}])


@batchmill.operator("holds_lock", columns=["id"], batch_size=1)
def holds_lock(rows: list[dict[str, Any]], *, seconds: int, ran: str) -> list[Any]:
    """Computes in native code that lets no other thread run."""
    with Path(ran).open("a") as file:
        file.writelines(f"{row['id']}\n" for row in rows)
    ctypes.PyDLL(None).sleep(seconds)
    return [{"out": row["id"]} for row in rows]


def _square(number: int) -> int:
    return number * number


@batchmill.operator("squares_in_processes", columns=["id"], batch_size=4)
def squares_in_processes(rows: list[dict[str, Any]]) -> list[Any]:
    """Squares, computed by processes that are forked for each batch."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return [{"out": value} for value in pool.map(_square, [row["id"] for row in rows])]


@batchmill.operator("starts_helpers", columns=["id"], batch_size=8)
def starts_helpers(rows: list[dict[str, Any]]) -> list[Any]:
    """Starts helper processes that never end: one in its group, and one in a session of its own."""
    command = [sys.executable, "-c", f"import time; time.sleep(100_000)  # {HELPER}"]
    pids = [subprocess.Popen(command, start_new_session=is_own).pid for is_own in (False, True)]
    return [{"pids": pids, "slot": os.getpid()} for _ in rows]


@batchmill.operator("replaces_streams", columns=["id"], batch_size=8)
def replaces_streams(rows: list[dict[str, Any]], *, closes: bool = False) -> list[Any]:
    """Replaces, or closes, standard output and error for good."""
    if closes:
        os.close(1)
        os.close(2)
    sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
    return [{"out": row["id"]} for row in rows]


@batchmill.operator("leaves_a_thread", columns=["id"], batch_size=8)
def leaves_a_thread(rows: list[dict[str, Any]]) -> list[Any]:
    """Starts a thread that is no daemon and never ends."""
    threading.Thread(target=time.sleep, args=(100_000,), daemon=False).start()
    return [{"out": row["id"], "slot": os.getpid()} for row in rows]


@batchmill.operator("forks_and_returns", columns=["id"], batch_size=8)
def forks_and_returns(rows: list[dict[str, Any]]) -> list[Any]:
    """Returns in two processes."""
    os.fork()
    return [{"out": row["id"]} for row in rows]
