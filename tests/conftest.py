"""What the tests share: a real Valkey of their own, and ledgers on it."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import hypothesis
import pytest
import redis

from batchmill.embedded.valkey import valkey_command
from batchmill.ledger import Ledger
from batchmill.ledger.scripting.connection import connect
from batchmill.processes.parent_death import die_with_parent
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

_numbers = itertools.count()

# A job in the background of a shell starts with SIGINT ignored, and hands that on to all it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
hypothesis.settings.register_profile("untimed", deadline=None)  # a slow machine fails no test
hypothesis.settings.load_profile("untimed")


SERVERS = os.environ.get("TEST_SERVERS", "").split(os.pathsep)
"""Programs of Redis or Valkey servers; "": the bundled Valkey. Every test that uses one runs against each."""


@pytest.fixture(scope="session", params=SERVERS, ids=lambda program: program or "bundled")
def valkey_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for the session, on a Unix socket."""
    folder = tmp_path_factory.mktemp("valkey")
    socket = folder / "s"
    bundled, *flags = valkey_command(folder, socket)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(die_with_parent([request.param or bundled, *flags]), stdout=log, stderr=log)
    try:
        until(lambda: _answers(f"unix://{socket}?db=0"), "the start of the server")
        yield f"unix://{socket}?db=0"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def prefix() -> str:
    """A key prefix that no other test has."""
    return f"test{next(_numbers)}:"


@pytest.fixture
def redis_client(valkey_url: str) -> Iterator[redis.Redis]:
    """A plain client of the session's server."""
    with connect(valkey_url) as client:
        yield client


@pytest.fixture
def ledger(redis_client: redis.Redis, prefix: str) -> Ledger:
    """An empty ledger."""
    return Ledger(redis_client, prefix)


@pytest.fixture
def epoch(ledger: Ledger) -> int:
    """Under which the test leads."""
    return ledger.lead("me", 3600)


def _answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False
