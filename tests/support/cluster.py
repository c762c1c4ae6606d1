"""A service from its single processes, for tests that kill, freeze and replace them.

The commands are those of a real deployment. Leases are short, so that what takes ten seconds there takes one here.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psutil
import redis

import batchmill
from batchmill.embedded.valkey import valkey_command
from batchmill.errors import ServiceUnavailable
from batchmill.ledger.formats.keys import Keys
from batchmill.processes.parent_death import die_with_parent
from batchmill.storage.blobs import BlobStore
from batchmill.storage.locations import UNRESTRICTED, Locations
from support.networks import Router
from support.operators.path import OPERATORS_FOLDER
from support.outputs import manifest_path
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from support.networks import Network
    from support.stepped_clock import SteppedClock

T = TypeVar("T")

TOKEN = "cluster-token"  # noqa: S105  # of a service that only this machine sees
TESTS = Path(__file__).resolve().parent.parent
LEASE_S = 2.0
LEADER_LEASE_S = 2.0
STOP_S = 30.0
KEYS = Keys("batchmill:")
VALKEY, VALKEY_PORT = "valkey", 6379  # the port in a network of its own


@dataclass(slots=True)
class Running:
    """A process of the service."""

    name: str
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def children(self) -> list[psutil.Process]:
        """Its child processes that live; of a supervisor: its slots."""
        try:
            found = psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [child for child in found if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]

    def kill(self) -> None:
        """End it outright, with all its children, as a machine that loses its power does."""
        children = self.children()
        self.process.kill()
        for child in children:
            end(child)
        self.process.wait()


class Cluster:
    """A Valkey that keeps its data, any number of coordinators and supervisors, and clients. A context manager.

    folder: where logs and blobs lie. operators: modules that the workers import. settings: more `BATCHMILL_…`
    settings, without the prefix, such as `BLOB_ROOT` for blobs in a bucket. clock: the Valkey's. apart: whether the
    Valkey and each coordinator and supervisor have networks of their own, in `networks`. Processes are tied to the
    thread that starts them: start all in one that lasts.
    """

    def __init__(
        self,
        folder: Path,
        operators: str,
        *,
        clock: SteppedClock | None = None,
        apart: bool = False,
        **settings: object,
    ) -> None:
        self.folder = folder
        self.clock = clock
        self.networks: dict[str, Network] = {}
        self._router = Router() if apart else None
        self.coordinators: dict[str, Running] = {}
        self.supervisors: dict[str, Running] = {}
        self.valkey: Running | None = None
        self.clients: dict[str, batchmill.Client] = {}
        self._runtime = Path(tempfile.mkdtemp(prefix="cluster-"))  # a socket's path must be short
        self._operators = operators
        self._settings = {"LEASE_TTL_S": LEASE_S, "LEADER_TTL_S": LEADER_LEASE_S, "DRAIN_S": 10} | settings
        self._urls: dict[str, str] = {}
        self._stack = ExitStack()
        self._started = 0
        self.valkey_folder = folder / "store" / "valkey"  # where its data is; those of replicas lie beside it
        self._seen: set[psutil.Process] = set()
        for path in (self.valkey_folder, folder / "logs"):
            path.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def socket(self) -> Path:
        return self._runtime / "valkey.sock"

    @property
    def blobs(self) -> Path:
        """Where the blobs are, if they are in a folder."""
        return self.folder / "blobs"

    def blob_store(self) -> BlobStore:
        """Open the blob store, whatever it is."""
        found = {name: str(value) for name, value in self._settings.items()}
        places = Locations(UNRESTRICTED, s3_endpoint=found.get("S3_ENDPOINT"), s3_region=found.get("S3_REGION"))
        return BlobStore.open(found.get("BLOB_ROOT", str(self.blobs)), places)

    def stored(self, folder: str) -> list[str]:
        """Name all that is in a folder of the blob store, also what is being written."""
        if "BLOB_ROOT" in self._settings:
            return self.blob_store().list(folder)
        paths = (self.blobs / folder).rglob("*")
        return sorted(str(path.relative_to(self.blobs)) for path in paths if path.is_file())

    def url(self, name: str) -> str:
        """Where the coordinator of that name is."""
        return self._urls[name]

    def log(self, name: str) -> str:
        """What the processes of that name wrote."""
        return (self.folder / "logs" / f"{name}.log").read_text(errors="replace")

    def logs(self) -> str:
        """What all wrote."""
        return "".join(path.read_text(errors="replace") for path in sorted((self.folder / "logs").iterdir()))

    def start_valkey(self, *flags: str, wait: bool = True) -> None:
        """Start Valkey over its append-only file; returns when it answers, or without `wait` at once."""
        self.socket.unlink(missing_ok=True)
        network = self._network(VALKEY)
        options = ["--port", str(VALKEY_PORT), "--protected-mode", "no"] if network else []
        command = [*valkey_command(self.valkey_folder, self.socket), *options, *flags]
        self.valkey = self._start(VALKEY, command, self._clock_env(), network)
        if wait:
            until(self.answers, "Valkey's start")

    def failover(self, stale_s: float) -> None:
        """Replace the Valkey by a replica of it, at the same address.

        stale_s: how long the old one still takes writes that the replica does not get; 0: the replica has all.
        """
        primary = self.valkey
        assert primary is not None
        self._started += 1
        folder, path = (
            self.valkey_folder.with_name(f"valkey-{self._started}"),
            self._runtime / f"replica-{self._started}.sock",
        )
        folder.mkdir()
        network = self._network(VALKEY)
        with self.redis() as old:
            port = VALKEY_PORT if network else free_port()
            old.config_set("port", port)
            old.config_set("repl-diskless-sync-delay", 0)
            flags = ["--replicaof", "127.0.0.1", str(port), "--protected-mode", "no"]
            replica = self._start(VALKEY, [*valkey_command(folder, path), *flags], self._clock_env(), network)
            until(path.exists, "the replica's start")
            with redis.Redis(unix_socket_path=str(path), decode_responses=True, socket_timeout=5) as new:
                until(lambda: new.info("replication")["master_link_status"] == "up", "the replica's first copy")
                if stale_s == 0:
                    old.execute_command("CLIENT", "PAUSE", "10000", "WRITE")
                    until(lambda: _offset(new) >= _offset(old), "the replica's last write")
                new.execute_command("REPLICAOF", "NO", "ONE")
        time.sleep(stale_s)
        primary.process.kill()
        primary.process.wait()
        if network:
            with redis.Redis(unix_socket_path=str(path), socket_timeout=5) as new:
                new.config_set("port", VALKEY_PORT)
        path.replace(self.socket)
        self.valkey, self.valkey_folder = replica, folder

    def start_coordinator(self, name: str, *, wait: bool = True, **settings: object) -> Running:
        """Start a coordinator; one of the same name has the port of the one before."""
        network = self._network(name)
        host = network.address if network else "127.0.0.1"
        url = self._urls.setdefault(name, f"http://{host}:{free_port()}")
        ready = self._ready(name)
        command = ["coordinator", "--host", host, "--port", url.rpartition(":")[2], "--ready-file", str(ready)]
        running = self.coordinators[name] = self._start(
            name, _batchmill(command), self._env(settings, network), network
        )
        if name not in self.clients:
            self.clients[name] = self._stack.enter_context(batchmill.Client(url, TOKEN))
        if wait:
            self._until_ready(running)
        return running

    def start_supervisor(
        self,
        slots: int = 1,
        *,
        wait: bool = True,
        devices: str = "cpu",
        operators: str | None = None,
        metadata_port: int = 0,
        **settings: object,
    ) -> Running:
        """Start a supervisor, under a name of its own. operators: instead of the cluster's.

        metadata_port: of the stand-in for AWS' metadata service that it asks; 0: it asks none.
        """
        self._started += 1
        name = f"worker-{self._started}"
        ready = self._ready(name)
        command = [
            "worker",
            "--devices",
            devices,
            "--slots-per-device",
            str(slots),
            "--operators",
            operators or self._operators,
            "--ready-file",
            str(ready),
        ]
        network = self._network(name)
        if metadata_port:
            host = self._router.here if self._router else "127.0.0.1"
            settings |= {"NOTICES": "aws", "NOTICES_URL": f"http://{host}:{metadata_port}"}
        running = self.supervisors[name] = self._start(name, _batchmill(command), self._env(settings, network), network)
        if wait:
            self._until_ready(running)
        return running

    def start(self, *, coordinators: int = 1, slots: tuple[int, ...] = (1,)) -> Self:
        """Start everything: Valkey, coordinators "a", "b", …, and a supervisor for each number of slots."""
        self.start_valkey("--enable-debug-command", "local")
        started = [self.start_coordinator(name, wait=False) for name in "abc"[:coordinators]]
        started += [self.start_supervisor(number, wait=False) for number in slots]
        for running in started:
            self._until_ready(running)
        return self

    @contextmanager
    def redis(self) -> Iterator[Any]:
        """A client of the Valkey, which gives text."""
        with redis.Redis(unix_socket_path=str(self.socket), decode_responses=True, socket_timeout=5) as client:
            yield client

    def leader(self) -> Running | None:
        """The coordinator that leads by the ledger, if one does."""
        with self.redis() as client:
            value = client.get(KEYS.leader())
        owners = [each for each in self.coordinators.values() if f"-{each.pid}-" in (value or "")]
        return owners[0] if owners else None

    def epoch(self) -> int:
        """The reigning leader's epoch; 0 while nobody leads."""
        with self.redis() as client:
            value = client.get(KEYS.leader())
        return int(value.split()[0]) if value else 0

    def slots(self) -> list[psutil.Process]:
        """The device processes that live."""
        return [child for running in self.supervisors.values() for child in running.children()]

    def ask(self, do: Callable[[batchmill.Client], T], within_s: float = 90.0) -> T:
        """What `do` gives with the client of any coordinator that can answer; others are asked again meanwhile."""
        ends_at = time.monotonic() + within_s
        while True:
            for client in list(self.clients.values()):
                try:
                    return do(client)
                except (ServiceUnavailable, TimeoutError):
                    if time.monotonic() > ends_at:
                        raise
            time.sleep(0.1)

    def remember(self) -> None:
        """Note which processes there are, so that `close` ends them even if they are orphans by then."""
        self._seen.update(self.slots())

    def close(self) -> None:
        """End everything."""
        self.remember()
        self._stack.close()
        for process in self._seen:
            resume(process)
        for group in (list(self.supervisors.values()), list(self.coordinators.values()), [self.valkey]):
            _stop([running for running in group if running is not None])
        for process in self._seen:
            end(process)
        for network in self.networks.values():
            network.close()
        if self._router is not None:
            self._router.close()
        shutil.rmtree(self._runtime, ignore_errors=True)

    def processes(self) -> list[psutil.Process]:
        """The coordinators, the supervisors and their slots that live."""
        running = [*self.coordinators.values(), *self.supervisors.values()]
        parents = [psutil.Process(each.pid) for each in running if each.process.poll() is None]
        return [*parents, *self.slots()]

    def answers(self) -> bool:
        """Whether the Valkey answers."""
        try:
            with self.redis() as client:
                return bool(client.ping())
        except redis.RedisError:  # it does not listen yet, or is loading its file
            return False

    def _ready(self, name: str) -> Path:
        ready = self._runtime / f"{name}.json"
        ready.unlink(missing_ok=True)
        return ready

    def _until_ready(self, running: Running) -> None:
        def is_ready() -> bool:
            code = running.process.poll()
            assert code is None, f"{running.name} ended with {code}:\n{self.log(running.name)[-3000:]}"
            return (self._runtime / f"{running.name}.json").exists()

        until(is_ready, f"the start of {running.name}")

    def _network(self, name: str) -> Network | None:
        if self._router is not None and name not in self.networks:
            self.networks[name] = self._router.network()
        return self.networks.get(name)

    def _clock_env(self) -> dict[str, str]:
        return self.clock.env if self.clock else {}

    def _env(self, settings: Mapping[str, object], network: Network | None) -> dict[str, str]:
        store = f"redis://{self.networks[VALKEY].address}:{VALKEY_PORT}/0" if network else f"unix://{self.socket}?db=0"
        own = {
            "REDIS_URL": store,
            "BLOB_ROOT": self.blobs,
            "UNRESTRICTED": "true",
            "TOKENS": TOKEN,
        }
        return {f"BATCHMILL_{name}": str(value) for name, value in (own | self._settings | dict(settings)).items()}

    def _start(self, name: str, command: list[str], env: Mapping[str, str], network: Network | None = None) -> Running:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("BATCHMILL_")}
        path = os.pathsep.join([str(OPERATORS_FOLDER), str(TESTS / "chaos"), os.environ.get("PYTHONPATH", "")])
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                die_with_parent(network.inside(command) if network else command),
                env=inherited | {"PYTHONPATH": path} | dict(env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return Running(name, process)


def _offset(client: Any) -> int:
    return int(client.info("replication")["master_repl_offset"])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def resume(process: psutil.Process) -> None:
    """Let a frozen process go on; one that has ended is fine."""
    try:
        process.resume()
    except psutil.NoSuchProcess:
        return


def end(process: psutil.Process) -> None:
    """Kill a process; one that has ended is fine."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an output folder."""
    found: dict[str, Any] = json.loads(manifest_path(folder).read_text())
    return found


def _batchmill(arguments: list[str]) -> list[str]:
    return [sys.executable, "-m", "batchmill", *arguments]


def _stop(group: list[Running]) -> None:
    alive = [running for running in group if running.process.poll() is None]
    for running in alive:
        resume(psutil.Process(running.pid))
        running.process.terminate()
    for running in alive:
        try:
            running.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            running.kill()
