"""Networks of their own for processes, as of whole machines, of which packets can be lost one way or both ways.

Each has one link, to a router that is a network too; so has this machine. Needs Linux, root, `ip`, `unshare` and
`nsenter`. A network is gone when the processes in it have ended.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import subprocess
from contextlib import suppress
from enum import Enum
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING

from batchmill.processes.parent_death import die_with_parent
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence

BLOCKS = tuple(IPv4Network("198.18.0.0/15").subnets(new_prefix=21))  # reserved for measurements of networks
RULES = "100"  # the priority of the routing rules that lose packets
FORWARDING = "/proc/sys/net/ipv4/ip_forward"


class Way(Enum):
    """The packets of a network that are lost: those that it sends, or those that are sent to it."""

    FROM = "from"
    TO = "to"


BOTH_WAYS = (Way.FROM, Way.TO)


def networks_are_permitted() -> bool:
    """Whether this process may make networks."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("ip", "unshare", "nsenter"))):
        return False
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode != 0:
        return False
    try:
        router = Router()
    except (OSError, subprocess.CalledProcessError):
        return False
    router.close()
    return True


class _Space:
    """Links and addresses of their own, as long as a process lives that does nothing else."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(die_with_parent(["unshare", "--net", "sleep", "infinity"]))
        try:
            until(self._is_apart, "the start of a network")
            self.run("ip", "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> str:
        """The name of it in the commands of `ip`."""
        return str(self._holder.pid)

    def inside(self, command: Sequence[str]) -> list[str]:
        """Return the command line that runs a command in it."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *command]

    def run(self, *command: str) -> None:
        """Run a command in it."""
        _run(*self.inside(command))

    def add_address(self, link: str, address: str) -> None:
        """Give a link an address, and let packets through."""
        self.run("ip", "address", "add", address, "dev", link)
        self.run("ip", "link", "set", link, "up")

    def close(self) -> None:
        """End it, unless other processes are still in it."""
        self._holder.kill()
        self._holder.wait()

    def _is_apart(self) -> bool:
        assert self._holder.poll() is None, "no network may be made"
        with suppress(OSError):
            return Path(f"/proc/{self.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
        return False


class Router:
    """Hands packets on between networks and this machine. link: this machine's. here: this machine's address there."""

    def __init__(self) -> None:
        self._space = _Space()
        self._numbers = itertools.count()
        self.link = f"bm{secrets.token_hex(4)}"
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def network(self) -> Network:
        """Make a network behind it."""
        router, inside = self._next_link()
        return Network(self, f"m{next(self._numbers)}", router, inside)

    def run(self, *command: str) -> None:
        """Run a command in it."""
        self._space.run(*command)

    def add_link(self, link: str, space: _Space, address: str) -> None:
        """Connect a network by a link of this name; there it is `eth0`. address: its own at that link."""
        self.run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space.pid)
        self._space.add_address(link, f"{address}/30")

    def close(self) -> None:
        """End it."""
        self._space.close()

    def _connect(self) -> None:
        self.run("sh", "-c", f"echo 1 > {FORWARDING}")
        _run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "host0", "netns", self._space.pid)
        taken = _run("ip", "route", "show").split()
        block = secrets.choice([block for block in BLOCKS if str(block) not in taken])
        self._links = block.subnets(new_prefix=30)
        router, self.here = self._next_link()
        _run("ip", "address", "add", f"{self.here}/30", "dev", self.link)
        _run("ip", "link", "set", self.link, "up")
        self._space.add_address("host0", f"{router}/30")
        _run("ip", "route", "add", str(block), "via", router)

    def _next_link(self) -> tuple[str, str]:
        router, other = next(self._links).hosts()
        return str(router), str(other)


class Network:
    """A network with one link, `eth0`. address: at which this machine and others reach what runs in it."""

    def __init__(self, router: Router, link: str, gateway: str, address: str) -> None:
        self.address = address
        self._router = router
        self._space = _Space()
        self._lost: set[Way] = set()
        router.add_link(link, self._space, gateway)
        self._space.add_address("eth0", f"{address}/30")
        self._space.run("ip", "route", "add", "default", "via", gateway)

    def inside(self, command: Sequence[str]) -> list[str]:
        """Return the command line that runs a command in the network."""
        return self._space.inside(command)

    def lose(self, *ways: Way) -> None:
        """Lose all packets of these ways from now on; connections are not told."""
        for way in set(ways) - self._lost:
            self._router.run("ip", "rule", "add", *self._rule(way))
            self._lost.add(way)

    def heal(self) -> None:
        """Let all packets through again."""
        while self._lost:
            self._router.run("ip", "rule", "delete", *self._rule(self._lost.pop()))

    def close(self) -> None:
        """End it, unless processes are still in it."""
        self._space.close()

    def _rule(self, way: Way) -> tuple[str, ...]:
        return ("pref", RULES, way.value, self.address, "blackhole")


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
