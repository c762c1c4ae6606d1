"""Event streams of the real API: no change is missed, one read serves all followers, silent readers harm nobody."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
from collections import Counter
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from batchmill import Client
from batchmill.errors import Overloaded
from batchmill.jobs.job import JobState
from batchmill_coordinator.api import server, status_feed
from support.live_service import TOKEN, LiveService
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from batchmill.jobs.status import JobStatus

    Stream = Callable[..., http.client.HTTPResponse]

SILENT_READER_S = 5.0
STREAMS = 300
AT_MOST = 320


@pytest.fixture(scope="module")
def live_service(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "SILENT_READER_S", SILENT_READER_S)
        patch.setattr(status_feed, "READ_AGAIN_S", 10 * GRACE_S)  # what an event does not bring is not seen at all
        made = LiveService(valkey_url, "events:", tmp_path_factory.mktemp("events"), max_event_streams=AT_MOST).start()
        yield made
        made.stop()


@pytest.fixture
def service(live_service: LiveService) -> Iterator[LiveService]:
    live_service.holds_jobs = True
    yield live_service
    live_service.reset()


@pytest.fixture
def job(service: LiveService) -> str:
    """A job that runs."""
    with Client(service.url, TOKEN) as client:
        return service.begun(client.submit("echo", rows=[{"id": n} for n in range(10)]).id)


def connect(service: LiveService, job: str) -> socket.socket:
    """A connection on which a stream was asked for; nothing of it is read."""
    connection = socket.create_connection(("127.0.0.1", int(service.direct_url.rpartition(":")[2])))
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    ask = f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    connection.sendall(ask.encode())
    return connection


@pytest.fixture
def stream(service: LiveService) -> Iterator[Callable[..., http.client.HTTPResponse]]:
    """Asks for a job's stream."""
    with ExitStack() as stack:

        def ask(job: str, **headers: str) -> http.client.HTTPResponse:
            connection = http.client.HTTPConnection(service.direct_url.removeprefix("http://"), timeout=GRACE_S)
            stack.callback(connection.close)
            connection.request("GET", f"/v1/jobs/{job}/events", headers={"Authorization": f"Bearer {TOKEN}", **headers})
            return stack.enter_context(connection.getresponse())

        yield ask


def events(text: bytes) -> list[tuple[str, dict[str, Any]]]:
    """The id and the status of each event."""
    found = []
    for block in text.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            found.append((fields["id"], json.loads(fields["data"])))
    return found


def test_a_change_between_the_read_and_its_answer_is_not_missed(
    service: LiveService, job: str, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    status_of = service.service.status
    raced = threading.Event()

    def read_while_it_ends(job_id: str) -> JobStatus:
        status = status_of(job_id)
        if not raced.is_set():
            raced.set()
            service.change(job_id, state=JobState.COMPLETED)
        return status

    monkeypatch.setattr(service.service, "status", read_while_it_ends)
    states = [status["state"] for _, status in events(stream(job).read())]
    assert (states[0], states[-1]) == ("running", "completed")


def test_changes_before_the_hub_is_subscribed_again_are_seen(service: LiveService, job: str, stream: Stream) -> None:
    answer = stream(job)
    assert answer.readline() == b"event: status\n"
    ledger = service.service.ledger
    with ledger._store.redis.client() as client:
        client.client_kill_filter(_type="pubsub")
    service.change(job, state=JobState.COMPLETED)
    assert events(b"event: status\n" + answer.read())[-1][1]["state"] == "completed"


def test_an_event_has_an_id_and_is_left_out_for_who_has_it(service: LiveService, job: str, stream: Stream) -> None:
    first = stream(job)
    lines = [first.readline() for _ in range(3)]
    [(event_id, status)] = events(b"".join(lines))
    assert status["state"] == "running"
    again = stream(job, **{"Last-Event-ID": event_id})
    service.change(job, state=JobState.COMPLETED)
    assert [status["state"] for _, status in events(again.read())] == ["completed"]


def test_one_read_serves_all_followers(
    service: LiveService, job: str, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[str] = Counter()
    status_of = service.service.status

    def counted(job_id: str) -> JobStatus:
        reads[job_id] += 1
        return status_of(job_id)

    answers = [stream(job) for _ in range(50)]
    for answer in answers:
        assert answer.readline() == b"event: status\n"
    monkeypatch.setattr(service.service, "status", counted)
    service.change(job, state=JobState.COMPLETED)
    for answer in answers:
        assert events(b"event: status\n" + answer.read())[-1][1]["state"] == "completed"
    assert 1 <= reads[job] <= 5


@pytest.mark.slow
def test_streams_that_nobody_reads_are_dropped_and_health_answers(service: LiveService, job: str) -> None:
    feeds = service.feeds
    followers = feeds._followers
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(service, job)) for _ in range(STREAMS)]
        until(lambda: followers.total() == STREAMS, "the begin of every stream")
        waits = []
        rows_done = 0

        def all_dropped() -> bool:
            nonlocal rows_done
            rows_done += 1
            service.change(job, rows_done=rows_done, note="x" * 20_000)
            began = time.monotonic()
            health = http.client.HTTPConnection(service.direct_url.removeprefix("http://"), timeout=GRACE_S)
            health.request("GET", "/healthz")
            assert health.getresponse().status == 200
            health.close()
            waits.append(time.monotonic() - began)
            return followers.total() == 0

        until(all_dropped, "the end of every stream that nobody reads")
        assert len(connections) == STREAMS
    assert sorted(waits)[len(waits) // 2] < 1.0


def test_a_token_has_so_many_streams_and_the_next_is_refused(service: LiveService, job: str, stream: Stream) -> None:
    feeds = service.feeds

    async def fill() -> None:
        async with asyncio.timeout(GRACE_S):
            for _ in range(AT_MOST):
                await stack.enter_async_context(feeds.follow(job, "default"))
            with pytest.raises(Overloaded, match=f"{AT_MOST} event streams of this token are open"):
                await stack.enter_async_context(feeds.follow(job, "default"))

    stack = AsyncExitStack()
    service.run(fill())
    refused = stream(job)
    assert (refused.status, json.loads(refused.read())["error"]["code"]) == (503, "overloaded")
    service.run(stack.aclose())
    assert feeds._followers.total() == 0
