"""The connection to Redis, and the scripts that run there."""

from __future__ import annotations

import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import AbstractBackoff
from redis.retry import Retry

from batchmill.backoff import Backoff
from batchmill.errors import InvalidSettings, ServiceUnavailable
from batchmill.ledger.keys import Keys
from batchmill.ledger.script_text import script_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SOCKET_TIMEOUT_S = 5.0
RECONNECT = Backoff(base_s=0.1, max_s=1.0)
RECONNECT_TRIES = 2


def connect(url: str) -> redis.Redis:
    """A client for `redis://`, `rediss://` or `unix://`, thread-safe, that reconnects by itself.

    Raises `InvalidSettings` for a URL it does not understand; does not connect yet.
    """
    try:
        return redis.Redis.from_url(
            url,
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=SOCKET_TIMEOUT_S,
            health_check_interval=15,
            retry=Retry(RedisBackoff(RECONNECT), retries=RECONNECT_TRIES),
            **({} if url.startswith("unix:") else {"socket_keepalive": True}),
        )
    except ValueError as error:
        raise InvalidSettings(
            "BATCHMILL_REDIS_URL is no Redis URL.",
            hint="Expected redis://host:port/db, rediss://… or unix:///path?db=0 (also for Valkey).",
        ) from error


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


@contextmanager
def redis_errors() -> Iterator[None]:
    """Raise Redis' connection errors as `ServiceUnavailable`."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise ServiceUnavailable(
            f"cannot connect to the ledger's Redis ({type(error).__name__}).",
            hint="Check that the Redis or Valkey server runs and that BATCHMILL_REDIS_URL names it.",
        ) from error


def _ignore_call(script: str, seconds: float, has_answered: bool) -> None:
    """Nobody observes calls."""
