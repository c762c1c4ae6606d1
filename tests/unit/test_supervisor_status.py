"""The supervisor's HTTP server, and what it says of slots that are missing, dying or leaving."""

from __future__ import annotations

import http.client
import json
import select
import socket
import sys
import threading
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest

from batchmill.errors import InvalidSettings
from batchmill.fleet import WorkerInfo
from batchmill.ledger import Ledger
from batchmill.ledger.scripting.connection import connect
from batchmill.processes.children import ChildEnd, ChildSpec, ProcessSupervisor
from batchmill_worker.supervisor.health import STUCK_TIMEOUT_S, Health, HeartbeatRegistry
from batchmill_worker.supervisor.status_server import Reply, StatusServer, parse_listen
from support.hand_clock import HandClock
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

ASKED = b"GET /here HTTP/1.0\r\n\r\n"
SLOW_S = 4.0  # the time of a slow client; an answer takes a four hundredth of it
ENDS, STAYS = [sys.executable, "-c", ""], [sys.executable, "-c", "import time; time.sleep(600)"]


def noted(ends: list[ChildEnd]) -> Callable[[ChildEnd], bool]:
    """Note each end; no work is to blame for it."""

    def note(end: ChildEnd) -> bool:
        ends.append(end)
        return False

    return note


@pytest.fixture
def server() -> Iterator[StatusServer]:
    served = StatusServer("127.0.0.1:0", {"/here": lambda: Reply(200, b"found", "text/plain")})
    served.start()
    yield served
    served.stop()


@contextmanager
def serving(
    routes: Mapping[str, Callable[[], Reply]] = {"/here": lambda: Reply(200, b"found")},  # read only
    **options: Any,
) -> Iterator[StatusServer]:
    """A server with limits of its own."""
    served = StatusServer("127.0.0.1:0", routes, **options)
    served.start()
    try:
        yield served
    finally:
        served.stop()


@contextmanager
def silent(server: StatusServer, count: int, said: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections to a server, whose clients say this much and no more."""
    with ExitStack() as stack:
        callers = [stack.enter_context(socket.create_connection(place_of(server))) for _ in range(count)]
        for caller in callers:
            caller.sendall(said)
        yield callers


def drip(caller: socket.socket) -> None:
    """Send one more byte, unless the server has hung up."""
    with suppress(OSError):
        caller.send(b"x", socket.MSG_DONTWAIT)


def is_hung_up(caller: socket.socket) -> bool:
    try:
        while caller.recv(65536, socket.MSG_DONTWAIT):
            continue
        return True
    except BlockingIOError:
        return False
    except OSError:
        return True


def place_of(server: StatusServer) -> tuple[str, int]:
    return "127.0.0.1", int(server.url.rpartition(":")[2])


def speak(server: StatusServer, said: bytes) -> bytes:
    """What the server answers to raw bytes."""
    with socket.create_connection(place_of(server)) as connection:
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
        (b"POST /here HTTP/1.0\r\n\r\n", b"405"),
        (b"GET /here HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", b"413"),
        (b"GET /here HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"413"),
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


def test_one_caller_too_many_is_served_and_the_oldest_is_hung_up_on() -> None:
    with serving(max_connections=2) as server, silent(server, 2) as callers:
        assert speak(server, ASKED).endswith(b"found")
        until(lambda: is_hung_up(callers[0]), "the end of the oldest connection")
        assert not is_hung_up(callers[1])


def test_of_callers_that_come_at_once_the_oldest_are_hung_up_on_too() -> None:
    with serving(max_connections=2) as server:
        server._loop.call_soon_threadsafe(time.sleep, 0.5)  # all of them wait to be accepted meanwhile
        with silent(server, 8) as callers:
            until(lambda: all(map(is_hung_up, callers[:6])), "the end of the oldest connections")
            assert not any(map(is_hung_up, callers[6:]))


def test_slow_clients_keep_no_one_waiting_and_are_hung_up_on() -> None:
    beginnings = (b"", b"GET /here HT", b"GET /here HTTP/1.1\r\nA: b\r\n", b"POST /here HTTP/1.1\r\n")
    with serving(timeout_s=SLOW_S) as server, ExitStack() as stack:
        callers = [caller for said in beginnings for caller in stack.enter_context(silent(server, 50, said))]
        for _ in range(5):
            before = time.monotonic()
            assert speak(server, ASKED).endswith(b"found")
            assert time.monotonic() - before < SLOW_S
            for caller in callers:
                drip(caller)
        until(lambda: all(map(is_hung_up, callers)), "the end of every slow connection")


def test_a_client_that_does_not_read_its_answer_is_hung_up_on() -> None:
    with (
        serving({"/here": lambda: Reply(200, b"x" * 50_000_000)}, timeout_s=1.0) as server,
        silent(server, 1) as callers,
    ):
        callers[0].sendall(ASKED)
        received = 0
        until(lambda: select.select(callers, [], [], 0)[0] != [], "the begin of the answer")
        ends_at = time.monotonic() + 1.5
        until(lambda: time.monotonic() > ends_at, "the end of its time")
        with suppress(ConnectionError):
            while data := callers[0].recv(1 << 20):
                received += len(data)
        assert received < 50_000_000


def test_a_route_that_hangs_delays_no_other() -> None:
    hanging, ends = threading.Event(), threading.Event()

    def hang() -> Reply:
        hanging.set()
        ends.wait()
        return Reply(200, b"at last")

    with serving({"/here": lambda: Reply(200, b"found"), "/hangs": hang}) as server, silent(server, 20) as callers:
        for caller in callers:
            caller.sendall(b"GET /hangs HTTP/1.0\r\n\r\n")
        assert hanging.wait(GRACE_S)
        assert speak(server, ASKED).endswith(b"found")
        ends.set()


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
    health = Health(keeper, HeartbeatRegistry(ledger, lambda: ["a", "b"], clock))
    ledger.fleet.announce(worker("a"), [], 60)
    assert told(health.readyz()) == (503, {"ok": False, "ledger": True, "missing": ["b"], "draining": False})
    ledger.fleet.announce(worker("b"), [], 60)
    clock.now_s += 1
    assert told(health.readyz()) == (200, {"ok": True, "ledger": True, "missing": [], "draining": False})
    keeper.ask_to_stop()
    assert told(health.readyz())[0] == 503


def test_a_supervisor_whose_ledger_is_away_lives_but_is_not_ready(tmp_path: Path, keeper: ProcessSupervisor) -> None:
    away = Ledger(connect(f"unix://{tmp_path}/nothing?db=0"), "p:")
    health = Health(keeper, HeartbeatRegistry(away, lambda: ["a"]))
    assert told(health.readyz()) == (503, {"ok": False, "ledger": False, "missing": [], "draining": False})
    assert told(health.healthz())[0] == 200


def test_a_supervisor_is_ill_when_a_slot_dies_again_and_again(ledger: Ledger) -> None:
    clock = HandClock()
    ends: list[ChildEnd] = []
    keeper = ProcessSupervisor(clock, on_end=noted(ends))
    health = Health(keeper, HeartbeatRegistry(ledger, list), clock)
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
    health = Health(keeper, HeartbeatRegistry(ledger, list), clock)
    clock.now_s += STUCK_TIMEOUT_S + 1
    assert told(health.healthz()) == (503, {"ok": False, "crash_looping": [], "stuck": True})
    health.mark_polled()
    assert health.healthz().status == 200


def test_a_recycled_child_is_started_afresh_at_once_and_has_not_died() -> None:
    ends: list[ChildEnd] = []
    keeper = ProcessSupervisor(HandClock(), on_end=noted(ends))
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
    keeper = ProcessSupervisor(clock, on_end=noted(ends))
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
