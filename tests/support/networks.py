"""Networks of their own for processes, each with one link to this machine that can be cut: real packets are lost.

Needs Linux, root, `ip`, `unshare` and `nsenter`. A network is gone when the processes in it have ended.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from batchmill.processes.parent_death import die_with_parent
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence

PORT = 6379
PIECE = 64 * 1024


def networks_are_permitted() -> bool:
    """Whether this process may make networks."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "nsenter"))):
        return False
    name = f"bm{secrets.token_hex(4)}"
    made = subprocess.run(["ip", "link", "add", name, "type", "veth"], capture_output=True, check=False)
    if made.returncode == 0:
        _run("ip", "link", "delete", name)
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return made.returncode == 0 and tried.returncode == 0


class Network:
    """A network with one link. What runs in it reaches the server at a Unix socket as `redis_url`.

    address: at which this machine reaches what runs in it. gateway: at which it reaches this machine.
    """

    def __init__(self, server: Path) -> None:
        prefix = f"198.{18 + secrets.randbelow(2)}.{secrets.randbelow(256)}"  # reserved for measurements of networks
        host = 4 * secrets.randbelow(64)
        self.address, here, link = f"{prefix}.{host + 2}", f"{prefix}.{host + 1}", f"bm{secrets.token_hex(4)}"
        self.gateway = here
        self.redis_url = f"redis://{here}:{PORT}/0"
        self._holder = subprocess.Popen(die_with_parent(["unshare", "--net", "sleep", "infinity"]))
        until(self._is_apart, "the start of a network")
        _run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(self._holder.pid))
        _run("ip", "address", "add", f"{here}/30", "dev", link)
        _run("ip", "link", "set", link, "up")
        for command in (f"ip address add {self.address}/30 dev eth0", "ip link set lo up", "ip link set eth0 up"):
            _run(*self.inside(command.split()))
        self._relay = _Relay(here, server)

    def inside(self, command: Sequence[str]) -> list[str]:
        """Return the command line that runs a command in the network."""
        return ["nsenter", f"--net=/proc/{self._holder.pid}/ns/net", "--", *command]

    def cut(self) -> None:
        """Lose all packets, both ways; connections are not told."""
        _run(*self.inside(["ip", "link", "set", "eth0", "down"]))

    def heal(self) -> None:
        """Let packets through again."""
        _run(*self.inside(["ip", "link", "set", "eth0", "up"]))

    def close(self) -> None:
        """End the relay, and the network unless processes are still in it."""
        self._relay.close()
        self._holder.kill()
        self._holder.wait()

    def _is_apart(self) -> bool:
        with suppress(OSError):
            return Path(f"/proc/{self._holder.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
        return False


class _Relay:
    """A thread that hands what arrives at an address on to a Unix socket, and back. What is cut there is cut here."""

    def __init__(self, address: str, server: Path) -> None:
        self._server = server
        self._loop = asyncio.new_event_loop()
        listening = asyncio.start_server(self._serve, address, PORT)
        self._listener = self._loop.run_until_complete(listening)
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"relay {address}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._listener.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_server, to_server = await asyncio.open_unix_connection(self._server)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(_pump(reader, to_server), _pump(from_server, writer))
        finally:
            writer.close()
            to_server.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(PIECE):
            writer.write(piece)
            await writer.drain()
    writer.close()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
