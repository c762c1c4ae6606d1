"""The connection to Redis, and the scripts that run there."""

from __future__ import annotations

import time
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from batchmill.errors import InvalidSettings, ServiceUnavailable
from batchmill.ledger.keys import Keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SOCKET_TIMEOUT_S = 5.0


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
            retry=Retry(ExponentialWithJitterBackoff(cap=1.0, base=0.1), retries=2),
            **({} if url.startswith("unix:") else {"socket_keepalive": True}),
        )
    except ValueError as error:
        raise InvalidSettings(
            "BATCHMILL_REDIS_URL is no Redis URL.",
            hint="Expected redis://host:port/db, rediss://… or unix:///path?db=0 (also for Valkey).",
        ) from error


class Store:
    """A Redis, the keys under one prefix, and the ledger's scripts by their file's name.

    now_ms: the time to tell the scripts, milliseconds since the epoch; 0 lets them ask the server.
    """

    def __init__(self, client: redis.Redis, prefix: str, *, now_ms: int = 0) -> None:
        self.redis: Any = client  # replies are bytes here; redis-py's types cannot tell, and say bytes or str
        self.keys = Keys(prefix)
        self.now_ms = now_ms
        self._scripts: dict[str, Any] = {}
        self.on_call: Callable[[str, float, bool], None] = _unheard  # a script, its seconds, whether it answered

    def run(self, name: str, keys: Sequence[str], arguments: Sequence[str | bytes | int | float]) -> Any:
        """Run the script `name`. Raises `ServiceUnavailable` when Redis cannot be reached."""
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = self.redis.register_script(_source(name))
        started, has_answered = time.monotonic(), False
        try:
            with reaching_redis():
                reply = script(keys=list(keys), args=list(arguments))
            has_answered = True
        finally:
            self.on_call(name, time.monotonic() - started, has_answered)
        return reply

    def publish_channel(self) -> str:
        """The channel that scripts tell their changes on."""
        return self.keys.events()


class reaching_redis:  # noqa: N801  # reads as a phrase after `with`
    """Turns Redis' connection errors into `ServiceUnavailable`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, redis.ConnectionError | redis.TimeoutError):
            raise ServiceUnavailable(
                f"cannot connect to the ledger's Redis ({type(error).__name__}).",
                hint="Check that the Redis or Valkey server runs and that BATCHMILL_REDIS_URL is right.",
            ) from error


def _unheard(script: str, seconds: float, has_answered: bool) -> None:
    """Nobody asked how long calls take."""


@cache
def _source(name: str) -> str:
    folder = resources.files("batchmill.ledger") / "scripts"
    prelude, script = (folder / f"{part}.lua" for part in ("_prelude", name))
    return f"{prelude.read_text()}\n{script.read_text()}"
