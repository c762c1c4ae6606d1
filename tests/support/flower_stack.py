"""A service with Flower beside it, each command as a user would start it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import batchmill
from batchmill.processes.parent_death import die_with_parent
from support.operators.path import OPERATORS_FOLDER
from support.pages import ask_page
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

USER = "looker:on"


@dataclass(frozen=True)
class FlowerStack:
    """The service's client, and where Flower is."""

    client: batchmill.Client
    flower_url: str

    def ask(self, path: str, *, method: str = "GET", user: str | None = USER) -> tuple[int, str]:
        """Flower's status and body for a page."""
        return ask_page(f"{self.flower_url}{path}", user, method=method)

    def tasks(self, job: batchmill.Job) -> list[dict[str, Any]]:
        """What Flower knows of a job's attempts, as their last events have it."""
        status, body = self.ask("/api/tasks")
        assert status == 200
        return [task for task in json.loads(body).values() if job.id in (task["args"] or "")]


@contextmanager
def flower_stack(folder: Path, valkey_url: str, prefix: str) -> Iterator[FlowerStack]:
    """Coordinator, one worker with the tests' operators, and Flower, which already sees the worker."""
    ready, port = folder / "ready.json", _free_port()
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(OPERATORS_FOLDER), os.environ.get("PYTHONPATH", "")]),
        "BATCHMILL_REDIS_URL": valkey_url,
        "BATCHMILL_REDIS_PREFIX": prefix,
        "BATCHMILL_BLOB_ROOT": str(folder / "blobs"),
        "BATCHMILL_TOKENS": "token",
        "BATCHMILL_FLOWER_USERS": USER,
    }
    commands = [
        ["flower", "--port", str(port)],
        ["coordinator", "--port", "0", "--ready-file", str(ready)],
        ["worker", "--operators", "mill_operators"],
    ]
    processes = [
        subprocess.Popen(die_with_parent([sys.executable, "-m", "batchmill", *command]), env=env)
        for command in commands
    ]
    try:
        until(ready.exists, "the coordinator's start")
        with batchmill.Client(json.loads(ready.read_text())["url"], "token") as client:
            stack = FlowerStack(client, f"http://127.0.0.1:{port}")
            until(lambda: _sees_worker(stack), "Flower's sight of the worker")
            yield stack
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(GRACE_S)


def _sees_worker(stack: FlowerStack) -> bool:
    try:
        status, body = stack.ask("/workers?json=1")
    except OSError:  # it does not listen yet
        return False
    return status == 200 and any(worker["status"] for worker in json.loads(body)["data"])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
