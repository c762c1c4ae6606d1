"""A primary, a replica and three sentinels of the bundled Valkey, or of another server's program."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import redis

from batchmill.embedded.valkey import valkey_command
from batchmill.processes.parent_death import die_with_parent
from support.cluster import free_port
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.certificates import Certificates

NAME = "mymaster"
PASSWORD = "of-the-primary"  # noqa: S105  # of servers that only this machine sees
SENTINEL_PASSWORD = "of-the-sentinels"  # noqa: S105  # as above
HOST = "127.0.0.1"
DOWN_AFTER_MS = 2000


@dataclass(slots=True)
class SentinelStack:
    """program: a Redis or Valkey server's; "": the bundled one. certificates: None: without TLS."""

    folder: Path
    program: str = ""
    certificates: Certificates | None = None
    servers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)  # by port
    sentinels: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """What services name: the sentinels, and files with both passwords."""
        hosts = ",".join(f"{HOST}:{port}" for port in self.sentinels)
        files = f"password_file={self.folder / 'password'}&sentinel_password_file={self.folder / 'sentinel-password'}"
        if self.certificates is None:
            return f"redis+sentinel://{hosts}/{NAME}/0?{files}"
        return f"rediss+sentinel://{hosts}/{NAME}/0?{files}&{urlencode(self.certificates.client_options())}"

    def start(self) -> None:
        """Start all; returns when the sentinels know each other and the replica."""
        self.folder.mkdir(parents=True)
        (self.folder / "password").write_text(f"{PASSWORD}\n")
        (self.folder / "sentinel-password").write_text(SENTINEL_PASSWORD)
        primary = free_port()
        self.start_server(primary)
        self.start_server(free_port(), primary)
        for _ in range(3):
            self._start_sentinel(free_port(), primary)
        until(lambda: all(self._is_aware(port) for port in self.sentinels), "sentinels that know each other")

    def start_server(self, port: int, primary: int | None = None) -> None:
        """Start a server; primary: the port of the one that it copies."""
        folder = self.folder / f"server-{port}"
        folder.mkdir(exist_ok=True)
        bundled, *_ = valkey_command(folder, folder / "s")
        options: dict[str, object] = {
            **self._listening(port),
            "dir": folder,
            "appendonly": "yes",
            "save": "",
            "requirepass": PASSWORD,
            "masterauth": PASSWORD,
            "repl-diskless-sync-delay": 0,
            "logfile": folder / "log",
        }
        command = [
            self.program or bundled,
            *(part for name, value in options.items() for part in (f"--{name}", str(value))),
        ]
        if primary is not None:
            command += ["--replicaof", HOST, str(primary)]
        self.servers[port] = subprocess.Popen(die_with_parent(command), stdout=subprocess.DEVNULL)
        until(lambda: self._answers(port, PASSWORD), f"the server at port {port}")

    def primary(self) -> int:
        """The port that the sentinels name."""
        with self._sentinel(next(iter(self.sentinels))) as client:
            return int(client.sentinel_get_master_addr_by_name(NAME)[1])

    def replica(self) -> int:
        """The port of the other server."""
        primary = self.primary()
        return next(port for port in self.servers if port != primary)

    @contextmanager
    def server(self, port: int) -> Iterator[Any]:
        """A client of one server."""
        with self._client(port, PASSWORD) as client:
            yield client

    def stop_copying(self) -> None:
        """Cut the replica off from the primary: its password is wrong from now on."""
        with self.server(self.replica()) as replica, self.server(self.primary()) as primary:
            replica.config_set("masterauth", "wrong")
            primary.client_kill_filter(_type="replica")
            until(lambda: replica.info("replication")["master_link_status"] == "down", "a replica that is cut off")

    def close(self) -> None:
        """End all."""
        for process in [*self.sentinels.values(), *self.servers.values()]:
            process.kill()
            process.wait()

    def _start_sentinel(self, port: int, primary: int) -> None:
        folder = self.folder / f"sentinel-{port}"
        folder.mkdir()
        bundled, *_ = valkey_command(folder, folder / "s")
        lines = [
            *(f"{name} {value}" for name, value in self._listening(port).items()),
            f"dir {folder}",
            f"logfile {folder / 'log'}",
            f"requirepass {SENTINEL_PASSWORD}",
            f"sentinel monitor {NAME} {HOST} {primary} 2",
            f"sentinel auth-pass {NAME} {PASSWORD}",
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {NAME} 10000",
        ]
        (folder / "sentinel.conf").write_text("\n".join(lines) + "\n")
        command = [self.program or bundled, os.fspath(folder / "sentinel.conf"), "--sentinel"]
        self.sentinels[port] = subprocess.Popen(die_with_parent(command), stdout=subprocess.DEVNULL)
        until(lambda: self._answers(port, SENTINEL_PASSWORD), f"the sentinel at port {port}")

    @contextmanager
    def _sentinel(self, port: int) -> Iterator[Any]:
        with self._client(port, SENTINEL_PASSWORD) as client:
            yield client

    def _is_aware(self, port: int) -> bool:
        with self._sentinel(port) as client:
            state = client.sentinel_master(NAME)
        return (state["num-other-sentinels"], state["num-slaves"]) == (2, 1)

    def _listening(self, port: int) -> dict[str, object]:
        """Return the options of a server or sentinel that listens there."""
        if self.certificates is None:
            return {"port": port, "bind": HOST}
        return {"port": 0, "tls-port": port, "bind": HOST, **self.certificates.server_options()}

    def _client(self, port: int, password: str) -> Any:
        tls: dict[str, Any] = {"ssl": True, **self.certificates.client_options()} if self.certificates else {}
        return redis.Redis(HOST, port, password=password, decode_responses=True, socket_timeout=5, **tls)

    def _answers(self, port: int, password: str) -> bool:
        try:
            with self._client(port, password) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False
