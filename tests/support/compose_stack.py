"""The stack of docker-compose.yml, built and started in real containers by whatever compose command there is.

TEST_COMPOSE           the command, "docker compose" unless set; it is given the arguments of compose
TEST_COMPOSE_BUILD     what builds the images, if that is another command than "$TEST_COMPOSE build"
TEST_ENGINE            the engine below it, "docker" unless set: stops one container outright
TEST_COMPOSE_WITHOUT   services to leave out, with spaces: those whose image cannot be had
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import batchmill
from batchmill.errors import BatchmillError
from support.pages import ask_page
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("secrets", "valkey", "coordinator", "standby", "worker", "flower", "prometheus", "grafana")
COMMAND_S = 1200
FETCH = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=10).read().decode())"


class ComposeStack:
    """A project of its own, on free ports, with the test's operators and the settings of `.env.example`."""

    def __init__(self) -> None:
        self._compose = shlex.split(os.environ.get("TEST_COMPOSE", "docker compose"))
        self._build = shlex.split(os.environ.get("TEST_COMPOSE_BUILD", ""))
        self._engine = shlex.split(os.environ.get("TEST_ENGINE", "docker"))
        self.project = f"batchmill-test-{secrets.token_hex(3)}"
        self.services = [name for name in SERVICES if name not in os.environ.get("TEST_COMPOSE_WITHOUT", "").split()]
        self.api_port, self.flower_port, self.grafana_port = _free_ports(3)
        self._env = {
            **os.environ,
            "API_PORT": str(self.api_port),
            "FLOWER_PORT": str(self.flower_port),
            "GRAFANA_PORT": str(self.grafana_port),
            "OPERATORS_DIR": "./tests/system/operators",
            "OPERATORS": "stack_operators",
            "WORKERS": "1",
        }

    def require(self) -> None:
        """Fail, and say what is missing, if there is no compose command here."""
        if shutil.which(self._compose[0]) is None:
            pytest.fail(
                f"this test starts docker-compose.yml for real, and {self._compose[0]!r} is not installed. Install "
                "Docker with its compose plugin, or set TEST_COMPOSE and TEST_ENGINE as CONTRIBUTING.md tells."
            )

    def build(self) -> None:
        """Build the images."""
        command = self._build or [*self._compose, *self._place(), "build"]
        self._run([*command, "valkey", "coordinator", "worker", "flower"])

    def compose(self, *arguments: str) -> str:
        """What a compose command writes."""
        return self._run([*self._compose, *self._place(), *arguments])

    def up(self, *options: str) -> None:
        """Start what does not run yet."""
        self.compose("up", "--detach", "--no-build", *options, *self.services)

    def scale(self, workers: int) -> None:
        """Have so many workers."""
        self.up("--scale", f"worker={workers}")
        self._env["WORKERS"] = str(workers)  # podman-compose stops and removes as many as the file says

    def await_workers(self) -> None:
        """Wait until the coordinator with the published port answers and knows of a worker."""
        until(lambda: _has_worker(self), "the stack's start")

    def down(self) -> None:
        """Remove containers and volumes."""
        self.compose("down", "--volumes")

    def read(self, service: str, *command: str) -> str:
        """What a command writes that runs in a service's container."""
        return self.compose("exec", "-T", service, *command).strip()

    def fetch(self, url: str) -> Any:
        """A JSON page, as a container of the stack sees it."""
        return json.loads(self.read("coordinator", "python", "-c", FETCH, url))

    def kill(self, host: str) -> None:
        """Kill the container with this host name, outright."""
        self._run([*self._engine, "kill", host])

    def client(self) -> batchmill.Client:
        """A client on this machine, with the token that the stack drew."""
        token = self.read("coordinator", "cat", "/secrets/api/batchmill_tokens")
        return batchmill.Client(f"http://127.0.0.1:{self.api_port}", token)

    def flower(self, path: str, user: str | None) -> tuple[int, str]:
        """Flower's status and body for a page."""
        return ask_page(f"http://127.0.0.1:{self.flower_port}{path}", user)

    def _place(self) -> list[str]:
        return ["--project-name", self.project, "--env-file", str(ROOT / ".env.example")]

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(command, cwd=ROOT, env=self._env, capture_output=True, text=True, timeout=COMMAND_S)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
        return done.stdout


@contextmanager
def compose_stack() -> Iterator[ComposeStack]:
    """The stack, built, started and reachable; all of it is removed again."""
    stack = ComposeStack()
    stack.require()
    stack.build()
    try:
        stack.up()
        stack.await_workers()
        yield stack
    finally:
        stack.down()


def _has_worker(stack: ComposeStack) -> bool:
    try:
        with stack.client() as client:
            return bool(client.workers())
    except (BatchmillError, AssertionError):  # it is still starting
        return False


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
