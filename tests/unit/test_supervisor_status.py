"""The supervisor's HTTP server, and what it says of slots that are missing, dying or leaving."""

from __future__ import annotations

import http.client
import json
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hand_clock import HandClock
from waiting import until

from batchmill.errors import InvalidSettings
from batchmill.job import WorkerInfo
from batchmill.ledger import Ledger
from batchmill.ledger.connection import connect
from batchmill.processes.children import ChildEnd, ChildSpec, ProcessSupervisor
from batchmill_worker.supervisor.health import STUCK_TIMEOUT_S, Health, HeartbeatRegistry
from batchmill_worker.supervisor.status_server import Reply, StatusServer, parse_listen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

ENDS, STAYS = [sys.executable, "-c", ""], [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def server() -> Iterator[StatusServer]:
    served = StatusServer("127.0.0.1:0", {"/here": lambda: Reply(200, b"found", "text/plain")})
    served.start()
    yield served
    served.stop()


def speak(server: StatusServer, said: bytes) -> bytes:
    """What the server answers to raw bytes."""
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as connection:
        connection.sendall(said)
        answer = b""
        while received := connection.recv(65536):
            answer += received
    return answer


def test_a_route_answers_get_and_head(server: StatusServer) -> None:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    connection.request("GET", "/here?now=1")
    found = connection.getresponse()
    assert (found.status, found.read(), found.getheader("Content-Type")) == (200, b"found", "text/plain")
    connection.request("HEAD", "/here")
    head = connection.getresponse()
    assert (head.status, head.read(), head.getheader("Content-Length")) == (200, b"", "5")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /<script>elsewhere HTTP/1.0\r\n\r\n", b"404"),
        (b"POST /here HTTP/1.0\r\n\r\n", b"501"),
        (b"GET /here HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", b"413"),
        (b"GET /here HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"413"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.0\r\n\r\n", b"414"),
        (b"<script> nonsense here HTTP\r\n\r\n", b"400"),
    ],
)
def test_anything_else_is_refused_without_repeating_it(
    server: StatusServer, request_line: bytes, status: bytes
) -> None:
    answer = speak(server, request_line)
    assert answer.split()[1] == status
    assert answer.endswith(b"\r\n\r\n{}")
    assert b"script" not in answer


def test_a_caller_beyond_the_number_is_hung_up_on_and_served_later() -> None:
    server = StatusServer("127.0.0.1:0", {"/here": lambda: Reply(200, b"found")}, max_connections=1)
    server.start()
    place = ("127.0.0.1", int(server.url.rpartition(":")[2]))

    def is_hung_up() -> bool:
        with socket.create_connection(place) as late:
            try:
                late.sendall(b"GET /here HTTP/1.0\r\n\r\n")
                return late.recv(1) == b""
            except OSError:
                return True

    with socket.create_connection(place):  # says nothing, and takes the only place
        until(is_hung_up, "the refusal of one caller too many")
    until(lambda: not is_hung_up(), "an answer when there is room")
    server.stop()


@pytest.mark.parametrize(
    ("listen", "expected"),
    [("127.0.0.1:9465", ("127.0.0.1", 9465)), ("[::1]:0", ("::1", 0)), (":80", ("", 80)), ("name:1", ("name", 1))],
)
def test_an_address_is_host_and_port(listen: str, expected: tuple[str, int]) -> None:
    assert parse_listen(listen) == expected


@pytest.mark.parametrize("listen", ["9465", "host", "host:", "host:http", "host:70000", "::1:9465", "host:-1"])
def test_a_wrong_address_is_refused(listen: str) -> None:
    with pytest.raises(InvalidSettings, match=r"BATCHMILL_WORKER_LISTEN.*expected host:port"):
        parse_listen(listen)


def test_a_port_that_is_taken_is_named(server: StatusServer) -> None:
    listen = server.url.removeprefix("http://")
    with pytest.raises(InvalidSettings, match=rf"{listen}.*nothing can listen"):
        StatusServer(listen, {})


@pytest.fixture
def keeper() -> Iterator[ProcessSupervisor]:
    kept = ProcessSupervisor(HandClock())
    yield kept
    kept.kill()
    kept.stop(10)


def look_until(keeper: ProcessSupervisor, condition: Callable[[], bool], what: str) -> None:
    def is_met() -> bool:
        keeper.poll()
        return condition()

    until(is_met, what)


def told(reply: Reply) -> tuple[int, dict[str, Any]]:
    return reply.status, json.loads(reply.body)


def worker(name: str) -> WorkerInfo:
    return WorkerInfo(name=name, pool="p", device="cpu", operators=[], shards_at_once=1, pid=1, started_at=0)


def test_a_supervisor_is_ready_when_all_its_slots_are_in_the_fleet(ledger: Ledger, keeper: ProcessSupervisor) -> None:
    clock = HandClock()
    health = Health(keeper, HeartbeatRegistry(ledger, ["a", "b"], clock))
    ledger.fleet.announce(worker("a"), [], 60)
    assert told(health.readyz()) == (503, {"ok": False, "ledger": True, "missing": ["b"], "draining": False})
    ledger.fleet.announce(worker("b"), [], 60)
    clock.now_s += 1
    assert told(health.readyz()) == (200, {"ok": True, "ledger": True, "missing": [], "draining": False})
    keeper.ask_to_stop()
    assert told(health.readyz())[0] == 503


def test_a_supervisor_whose_ledger_is_away_lives_but_is_not_ready(tmp_path: Path, keeper: ProcessSupervisor) -> None:
    away = Ledger(connect(f"unix://{tmp_path}/nothing?db=0"), "p:")
    health = Health(keeper, HeartbeatRegistry(away, ["a"]))
    assert told(health.readyz()) == (503, {"ok": False, "ledger": False, "missing": [], "draining": False})
    assert told(health.healthz())[0] == 200


def test_a_supervisor_is_ill_when_a_slot_dies_again_and_again(ledger: Ledger) -> None:
    clock = HandClock()
    ends: list[ChildEnd] = []
    keeper = ProcessSupervisor(clock, on_end=ends.append)
    health = Health(keeper, HeartbeatRegistry(ledger, []), clock)
    keeper.start(ChildSpec("loop", ENDS, {}))
    for count in (1, 2, 3):
        assert health.healthz().status == 200
        look_until(keeper, lambda: len(ends) == count, "a death")  # noqa: B023  # called at once
        clock.now_s += 40
        health.mark_polled()
    assert told(health.healthz()) == (503, {"ok": False, "crash_looping": ["loop"], "stuck": False})
    assert [(end.starts, end.code, end.was_recycled) for end in ends] == [(n, 0, False) for n in (1, 2, 3)]
    keeper.stop(10)


def test_a_supervisor_is_ill_when_it_no_longer_looks_after_its_slots(ledger: Ledger, keeper: ProcessSupervisor) -> None:
    clock = HandClock()
    health = Health(keeper, HeartbeatRegistry(ledger, []), clock)
    clock.now_s += STUCK_TIMEOUT_S + 1
    assert told(health.healthz()) == (503, {"ok": False, "crash_looping": [], "stuck": True})
    health.mark_polled()
    assert health.healthz().status == 200


def test_a_recycled_child_is_started_afresh_at_once_and_has_not_died() -> None:
    ends: list[ChildEnd] = []
    keeper = ProcessSupervisor(HandClock(), on_end=ends.append)
    first = keeper.start(ChildSpec("slot", STAYS, {}))
    keeper.recycle("slot", grace_s=60)
    first.wait()
    keeper.poll()
    keeper.poll()
    (state,) = keeper.states()
    assert state.deaths == 0
    assert state.pid not in (None, first.pid)
    assert [(end.pid, end.was_recycled) for end in ends] == [(first.pid, True)]
    keeper.stop(10)


def test_a_child_that_does_not_end_to_be_recycled_is_killed() -> None:
    clock = HandClock()
    deaf = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
    ends: list[ChildEnd] = []
    keeper = ProcessSupervisor(clock, on_end=ends.append)
    keeper.start(ChildSpec("deaf", [sys.executable, "-c", deaf], {}))
    keeper.recycle("deaf", grace_s=5)
    clock.now_s += 6
    look_until(keeper, lambda: bool(ends), "its end")
    keeper.stop(10)


def test_killed_children_are_not_waited_for(keeper: ProcessSupervisor) -> None:
    deaf = "import signal; signal.signal(15, signal.SIG_IGN); signal.pause()"
    process = keeper.start(ChildSpec("deaf", [sys.executable, "-c", deaf], {}))
    keeper.kill()
    keeper.stop(grace_s=600)
    assert process.returncode == -9
