"""How an address is reached: the class of its connections, and their arguments. For ledger and broker alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.redis_access.connections import TcpConnection, TlsConnection, UnixConnection, login_parameters
from batchmill.redis_access.sentinels import PrimaryTcpConnection, PrimaryTlsConnection, shared_lookup

if TYPE_CHECKING:
    from batchmill.redis_access.address import RedisAddress


def connection_class(address: RedisAddress) -> type[Any]:
    """The class of connections that reach an address."""
    if address.path is not None:
        return UnixConnection
    if address.sentinels is not None:
        return PrimaryTlsConnection if address.tls is not None else PrimaryTcpConnection
    return TlsConnection if address.tls is not None else TcpConnection


def connection_parameters(address: RedisAddress) -> dict[str, Any]:
    """The keyword arguments of such connections: where, who, which database."""
    tls = address.tls.parameters() if address.tls is not None else {}
    return {**_where(address), "db": address.database, **login_parameters(address.login), **tls}


def _where(address: RedisAddress) -> dict[str, Any]:
    if address.path is not None:
        return {"path": address.path}
    if address.sentinels is not None:
        return {"lookup": shared_lookup(address.sentinels, address.tls)}
    return {"host": address.host, "port": address.port}
