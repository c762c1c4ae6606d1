from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest

import batchmill
from batchmill import Client
from batchmill.client.connection.service import ServiceAddress, find_service
from batchmill.errors import (
    BatchmillError,
    InvalidRequest,
    InvalidSettings,
    PayloadTooLarge,
    ServiceUnavailable,
    Unauthorized,
)
from support.fault_proxy import Fault

if TYPE_CHECKING:
    from support.live_service import LiveService


def _write_service(url: str = "http://127.0.0.1:1", key: str = "t", pid: int | None = None) -> None:
    record = {"url": url, "token": key, "pid": os.getpid() if pid is None else pid}
    _write_service_file(json.dumps(record))


def _write_service_file(text: str) -> None:
    folder = Path(os.environ["BATCHMILL_DATA_DIR"])
    folder.mkdir()
    (folder / "service.json").write_text(text)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_the_environment_names_the_service(service: LiveService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHMILL_URL", service.url + "/")
    monkeypatch.setenv("BATCHMILL_TOKEN", service.token)
    with Client() as client:
        assert client.workers()


def test_a_running_service_of_this_machine_is_found_with_its_own_token(
    service: LiveService, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write_service(service.url, service.token)
    monkeypatch.setenv("BATCHMILL_TOKEN", "of another service")
    with Client() as client:
        assert client.workers()


def test_an_argument_goes_before_the_environment_and_the_running_service(monkeypatch: pytest.MonkeyPatch) -> None:
    _write_service()
    monkeypatch.setenv("BATCHMILL_URL", "http://env:1")
    monkeypatch.setenv("BATCHMILL_TOKEN", "env-token")
    assert find_service().url == "http://env:1"
    assert find_service("http://arg:1") == ServiceAddress("http://arg:1", "env-token")
    assert find_service("http://arg:1", "arg-token") == ServiceAddress("http://arg:1", "arg-token")
    monkeypatch.delenv("BATCHMILL_URL")
    assert find_service(None, "arg-token") == ServiceAddress("http://127.0.0.1:1", "arg-token")


def test_without_a_service_the_error_says_what_to_do() -> None:
    with pytest.raises(ServiceUnavailable, match="BATCHMILL_URL"):
        Client()


def test_a_service_that_died_without_cleaning_up_counts_as_none() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    _write_service(pid=ended.pid)
    with pytest.raises(ServiceUnavailable, match="batchmill up"):
        Client()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"url": "", "pid": "x"}'])
def test_a_broken_service_file_is_named(text: str) -> None:
    _write_service_file(text)
    with pytest.raises(InvalidSettings, match=r"service\.json"):
        Client()


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "http://x:port", "7"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettings, match="http://host:port"):
        Client(url)


def test_secrets_are_never_shown(service: LiveService) -> None:
    with pytest.raises(InvalidSettings) as caught:
        Client("http://user:hidden-one@host:1")
    assert "hidden-one" not in str(caught.value)
    with pytest.raises(InvalidSettings) as caught:
        Client(service.url, "hidden\ntwo")
    assert "hidden" not in str(caught.value)
    with Client(service.url, "hidden-three") as client:
        assert "hidden" not in repr(client) + repr(client._async._transport.address)
        with pytest.raises(Unauthorized) as denied:
            client.workers()
    assert "hidden" not in str(denied.value)


def test_a_refused_connection_names_the_url_at_once() -> None:
    url = f"http://127.0.0.1:{_free_port()}"
    with Client(url, "t") as client, pytest.raises(ServiceUnavailable, match=url) as caught:
        client.workers()
    assert "batchmill up" in caught.value.hint


def test_a_host_that_does_not_exist_is_told_at_once() -> None:
    with Client("http://no-such-host.invalid:1") as client, pytest.raises(ServiceUnavailable, match=r"no-such-host"):
        client.jobs()


def test_what_speaks_no_http_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"220 mail.example.org ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with Client(url) as client, pytest.raises(ServiceUnavailable, match="did not answer with HTTP"):
            client.submit("echo", rows=[{"a": 1}])
        thread.join()


def test_a_short_absence_is_waited_out_once_the_service_was_there(client: Client, service: LiveService) -> None:
    client.workers()
    service.faults += [Fault("GET", "/v1/workers", answer=(503, "away")), Fault("GET", "/v1/workers", drop=True)]
    assert client.workers()


def test_an_absence_at_first_sight_is_told_at_once(client: Client, service: LiveService) -> None:
    service.faults.append(Fault("GET", "/v1/workers", answer=(503, "away")))
    with pytest.raises(ServiceUnavailable, match="503"):
        client.workers()
    assert len(service.requests) == 1


@pytest.mark.parametrize(
    ("status", "text", "error"),
    [
        (401, "", Unauthorized),
        (403, "<html>", Unauthorized),
        (413, "too much", PayloadTooLarge),
        (418, "[1]", BatchmillError),
        (404, "<html>nothing</html>", BatchmillError),
        (302, "", BatchmillError),
        (422, '{"error": {"code": "invalid_request", "message": "no", "hint": "h", "details": {}}}', InvalidRequest),
        (500, '{"error": {"code": "newer_code", "message": "new", "details": {"a": 1}}}', BatchmillError),
        (200, "<html>log in</html>", BatchmillError),
        (200, '{"workers": [{"name": 1}]}', BatchmillError),
        (200, '{"other": []}', BatchmillError),
        (200, "[]", BatchmillError),
    ],
)
def test_an_answer_that_is_not_as_expected_is_a_typed_error(
    client: Client, service: LiveService, status: int, text: str, error: type[BatchmillError]
) -> None:
    service.faults.append(Fault("GET", "/v1/workers", answer=(status, text)))
    with pytest.raises(error) as caught:
        client.workers()
    assert type(caught.value) is error


def test_fields_that_a_newer_service_adds_are_passed_over(client: Client, service: LiveService) -> None:
    job = client.submit("echo", rows=[{"a": 1}])
    assert job.latest is not None
    text = json.dumps(json.loads(job.latest.model_dump_json()) | {"mood": 7})
    service.faults.append(Fault("GET", job.id, answer=(200, text)))
    assert job.status() == job.latest


def test_connections_are_kept_alive(client: Client) -> None:
    for _ in range(5):
        client.workers()
    session = client._async._transport._session
    assert session is not None
    assert isinstance(session.connector, aiohttp.TCPConnector)
    assert [len(kept) for kept in session.connector._conns.values()] == [1]


def test_an_interrupt_reaches_a_blocked_caller_and_leaves_the_client_usable(service: LiveService) -> None:
    service.holds_jobs = True
    code = f"""
import os, signal, threading, batchmill
client = batchmill.Client({service.url!r}, {service.token!r})
job = client.submit("echo", rows=[{{"a": 1}}])
statuses = job.watch()
next(statuses)
threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()
try:
    next(statuses)
except KeyboardInterrupt:
    print("interrupted", job.status().state)
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("interrupted running\n", "", 0)


def test_a_forked_process_is_told_to_make_its_own_client(service: LiveService) -> None:
    code = """
import os, sys
from batchmill import Client
with Client(sys.argv[1], sys.argv[2]) as client:
    client.workers()
    pid = os.fork()
    if pid == 0:
        try:
            client.workers()
        except RuntimeError as error:
            os._exit(7 if "fork" in str(error) else 1)
        os._exit(2)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    # in a process of its own: the threads of a service and of the test runner must not be in the one that forks
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, service.url, service.token]
    assert subprocess.run(command, check=False, timeout=60).returncode == 7


def test_importing_batchmill_loads_nothing_heavy() -> None:
    code = """
import sys, batchmill
heavy = {"aiohttp", "pyarrow", "pydantic", "click", "rich", "redis", "celery", "torch", "fastapi", "asyncio"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
batchmill.Client, batchmill.operator, batchmill.RowError
assert not {"redis", "celery", "torch", "fastapi", "uvicorn"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_all_public_names_exist() -> None:
    for name in set(batchmill.__all__) - {"local"}:
        assert getattr(batchmill, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        batchmill.nope  # noqa: B018  # the access is the test
