"""Connections to the primary that sentinels name: each new connection asks them, and makes sure of what it reached.

A failover ends the connections to the old primary: it died, or its sentinels made it drop its clients. What
reconnects by itself then reaches the new one. See "Guidelines for Redis clients" in the documentation of Redis
Sentinel: ask the sentinels in turn, remember the one that answered, connect, and check with ROLE that it is a primary.

A primary that hangs ends no connection. So what one connection has found is known to all of the process: those to a
former primary are left when they are next used. Otherwise each would wait for its own timeout, one after the other,
and a former primary that runs again would be written to until its sentinels make it a replica, some ten seconds later.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from batchmill.redis_access.connections import (
    ServerUnavailable,
    TcpConnection,
    TlsConnection,
    login_parameters,
)
from batchmill.redis_access.replies import ITSELF, ErrorReply, ReplyKind

if TYPE_CHECKING:
    from batchmill.redis_access.address import Sentinels, Tls

ASK_TIMEOUT_S = 1.0
"""For the answer of one sentinel: another one is asked then."""


class PrimaryLookup:
    """Asks the sentinels where the primary is. Thread-safe.

    primary: host and port of the one that was reached last.
    """

    def __init__(self, sentinels: Sentinels, tls: Tls | None) -> None:
        self.primary: tuple[str, int] | None = None
        self._name = sentinels.name
        self._hosts = sentinels.hosts
        self._class = TcpConnection if tls is None else TlsConnection
        self._options = {**login_parameters(sentinels.login), **(tls.parameters() if tls is not None else {})}

    def find(self) -> tuple[str, int]:
        """Return the host and port of the primary. Raises `ServerUnavailable`, and says what each sentinel said."""
        said = []
        for host in self._hosts:
            try:
                found = self._ask(*host)
            except (redis.RedisError, OSError) as error:
                said.append(f"{host[0]}:{host[1]}: {error}")
                continue
            if found is not None:
                self._hosts = (host, *(other for other in self._hosts if other != host))
                return found
            said.append(f"{host[0]}:{host[1]} knows no primary {self._name!r}")
        hint = f"Check that the sentinels run and that BATCHMILL_REDIS_URL names them. They said: {'; '.join(said)}."
        raise ServerUnavailable(ErrorReply(ReplyKind.AWAY, "SENTINEL", "is known to none of its sentinels", hint))

    def _ask(self, host: str, port: int) -> tuple[str, int] | None:
        connection: Any = self._class(
            host=host,
            port=port,
            socket_timeout=ASK_TIMEOUT_S,
            socket_connect_timeout=ASK_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            **self._options,
        )
        try:
            connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
            found = connection.read_response()
        finally:
            connection.disconnect()
        return (_text(found[0]), int(found[1])) if found else None


@lru_cache(maxsize=16)
def shared_lookup(sentinels: Sentinels, tls: Tls | None) -> PrimaryLookup:
    """The lookup of the process: ledger and broker learn of a failover from each other."""
    return PrimaryLookup(sentinels, tls)


class _ToPrimary:
    """Asks where the primary is before it connects, and whether it is one afterwards."""

    host: str
    port: int

    def __init__(self, *, lookup: PrimaryLookup, **options: Any) -> None:
        self._lookup = lookup
        super().__init__(**options)

    @property
    def is_outdated(self) -> bool:
        """Whether another connection has reached another primary since."""
        return self._lookup.primary not in (None, (self.host, self.port))

    def can_read(self, *args: Any, **kwargs: Any) -> bool:
        """Return whether there is something to read. Raises `ServerUnavailable` for a connection that is outdated.

        Pools ask before they hand a connection out, subscriptions before they read; both then connect anew.
        """
        if self.is_outdated:
            raise ServerUnavailable(ErrorReply(ReplyKind.AWAY, "SENTINEL", "is no longer the primary", ITSELF))
        return bool(super().can_read(*args, **kwargs))  # type: ignore[misc]  # redis-py's connections have it

    def _connect(self) -> Any:
        self.host, self.port = self._lookup.find()
        return super()._connect()  # type: ignore[misc]  # as above

    def on_connect_check_health(self, check_health: bool = True) -> None:
        """Log in, then make sure that this is the primary: a former one answers reads, and never an event."""
        super().on_connect_check_health(check_health)  # type: ignore[misc]  # as above
        self.send_command("ROLE", check_health=False)  # type: ignore[attr-defined]  # as above
        role = _text(self.read_response()[0])  # type: ignore[attr-defined]  # as above
        if role != "master":
            raise ServerUnavailable(ErrorReply(ReplyKind.AWAY, "ROLE", f"is a {role}, as in a failover", ITSELF))
        self._lookup.primary = (self.host, self.port)


class PrimaryTcpConnection(_ToPrimary, TcpConnection):
    """Over TCP, to the primary."""


class PrimaryTlsConnection(_ToPrimary, TlsConnection):
    """Over TLS, to the primary."""


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
