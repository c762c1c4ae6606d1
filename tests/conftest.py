"""What the tests share: a real Valkey of their own, and ledgers on it."""

from __future__ import annotations

import itertools
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import hypothesis
import pytest
import redis

from batchmill.embedded.valkey import valkey_command
from batchmill.ledger import Ledger
from batchmill.ledger.connection import connect
from batchmill.processes.parent_death import die_with_parent

if TYPE_CHECKING:
    from collections.abc import Iterator

_numbers = itertools.count()

# A job in the background of a shell starts with SIGINT ignored, and hands that on to all it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
hypothesis.settings.register_profile("untimed", deadline=None)  # a slow machine fails no test
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey server for the whole session, on a Unix socket."""
    folder = tmp_path_factory.mktemp("valkey")
    socket = folder / "s"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(die_with_parent(valkey_command(folder, socket)), stdout=log, stderr=log)
    try:
        _wait_for_ping(f"unix://{socket}?db=0")
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
    return ledger.lead("me", 60)


def _wait_for_ping(url: str, seconds: float = 20.0) -> None:
    ends_at = time.monotonic() + seconds
    with redis.Redis.from_url(url) as client:
        while True:
            try:
                client.ping()
                return
            except redis.ConnectionError:
                if time.monotonic() > ends_at:
                    raise
                time.sleep(0.01)
