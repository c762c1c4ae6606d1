"""The connection to Redis, and the scripts that run there."""

from __future__ import annotations

import random
import re
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import AbstractBackoff

from batchmill.backoff import Backoff
from batchmill.ledger.formats.keys import Keys
from batchmill.ledger.scripting.script_text import script_text
from batchmill.redis_access.address import RedisAddress
from batchmill.redis_access.connections import NotingRetry, unavailable
from batchmill.redis_access.reaching import connection_class, connection_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SOCKET_TIMEOUT_S = 5.0
RECONNECT = Backoff(base_s=0.1, max_s=1.0)
RECONNECT_TRIES = 2


def connect(url: str) -> redis.Redis:
    """A client for the address, see `RedisAddress`, thread-safe, that reconnects by itself.

    Raises `InvalidSettings` for a URL it does not understand; does not connect yet.
    """
    address = RedisAddress.parse(url)
    options: dict[str, Any] = {
        **connection_parameters(address),
        **({} if address.path is not None else {"socket_keepalive": True}),
    }
    pool = redis.ConnectionPool(
        connection_class=connection_class(address),
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        health_check_interval=15,
        retry=NotingRetry(RedisBackoff(RECONNECT), retries=RECONNECT_TRIES),
        **options,
    )
    return redis.Redis.from_pool(pool)


def literally(text: str) -> str:
    """A pattern for Redis that means this text alone."""
    return re.sub(r"([*?\[\]\\^])", r"\\\1", text)


class RedisBackoff(AbstractBackoff):
    """A `Backoff` as redis-py's retries take it."""

    def __init__(self, backoff: Backoff) -> None:
        self._backoff = backoff
        self._rng = random.Random()  # noqa: S311  # jitter, no secret

    def compute(self, failures: int) -> float:
        """The wait after that many failures in a row, in seconds."""
        return self._backoff.delay_s(failures, self._rng)


class Store:
    """A Redis, the keys under one prefix, and the ledger's scripts by their file's name.

    now_ms: the time that scripts take for now, milliseconds since the epoch; 0: the server's.
    """

    def __init__(self, client: redis.Redis, prefix: str, *, now_ms: int = 0) -> None:
        self.redis: Any = client  # replies are bytes here; redis-py's types say bytes or str
        self.keys = Keys(prefix)
        self.now_ms = now_ms
        self._scripts: dict[str, Any] = {}
        self.on_call: Callable[[str, float, bool], None] = _ignore_call  # a script, its seconds, whether it answered

    def run(self, name: str, keys: Sequence[str], arguments: Sequence[str | bytes | int | float]) -> Any:
        """Run the script `name`, for `calls.py`. Raises `ServiceUnavailable` when Redis cannot be reached."""
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = self.redis.register_script(script_text(name))
        started, has_answered = time.monotonic(), False
        try:
            with redis_errors():
                reply = script(keys=keys, args=arguments)
            has_answered = True
        finally:
            self.on_call(name, time.monotonic() - started, has_answered)
        return reply

    def read_now_ms(self) -> int:
        """The server's time, milliseconds since the epoch, or the one that was given."""
        if self.now_ms:
            return self.now_ms
        with redis_errors():
            seconds, micros = self.redis.time()
        return int(seconds) * 1000 + int(micros) // 1000


@contextmanager
def redis_errors() -> Iterator[None]:
    """Raise Redis' errors as `ServiceUnavailable`, but for those that are bugs. See `redis_access.replies`."""
    try:
        yield
    except redis.RedisError as error:
        translated = unavailable(error)
        if translated is None:
            raise
        raise translated from error


def _ignore_call(script: str, seconds: float, has_answered: bool) -> None:
    """Nobody observes calls."""
