"""Kombu's Redis transport over the ledger's own connections: the same address, the same TLS, the same error replies.

Only processes that run Celery import this. `broker.celery_settings` names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.transport import redis as kombu_redis

from batchmill.redis_access.reaching import connection_class, connection_parameters

if TYPE_CHECKING:
    from batchmill.redis_access.address import RedisAddress

OF_KOMBU = ("host", "port", "username", "password")
"""What kombu takes from its own URL."""
ONLY_TCP = ("socket_keepalive", "socket_keepalive_options")


class Channel(kombu_redis.Channel):  # type: ignore[misc]  # kombu has no types
    """A channel whose connections go to the address in the transport option `address`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._made: dict[bool, Any] = {}  # the last client of each kind
        super().__init__(*args, **kwargs)

    @property
    def connection_class(self) -> type[Any]:
        """The class of its connections."""
        return connection_class(self._address)

    @property
    def _address(self) -> RedisAddress:
        address: RedisAddress = self.connection.client.transport_options["address"]
        return address

    def basic_consume(self, queue: str, *args: Any, **kwargs: Any) -> Any:
        """Consume without a record in Redis of what is delivered and not acknowledged.

        The ledger knows what is queued, and the recoverer publishes again what nobody claims within seconds.
        """
        return super().basic_consume(queue, *args, **{**kwargs, "no_ack": True})

    def basic_ack(self, *_: Any, **__: Any) -> None:
        """Do nothing: kombu would look for the record."""

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Ask for the next message: of the primary that there is by now, not of a former one."""
        client = self.client
        if client.connection.is_outdated:
            client.connection.disconnect()
            self.connection.cycle._register(self, client, "BRPOP")  # noqa: SLF001  # as the cycle does before this call
        super()._brpop_start(timeout)

    def _create_client(self, asynchronous: bool = False) -> Any:  # kombu's signature
        """A client of the pool: kombu makes one for each command, which takes longer than the command."""
        pool = self.async_pool if asynchronous else self.pool
        made = self._made.get(asynchronous)
        if made is None or made.connection_pool is not pool:
            made = self._made[asynchronous] = super()._create_client(asynchronous)
        return made

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:  # kombu's signature
        parameters: dict[str, Any] = super()._connparams(asynchronous)
        own = connection_parameters(self._address)
        not_own = {*OF_KOMBU, *(ONLY_TCP if self._address.path is not None else ())}
        return {name: value for name, value in parameters.items() if name not in not_own} | own


class Transport(kombu_redis.Transport):  # type: ignore[misc]  # kombu has no types
    """The transport over such channels."""

    Channel = Channel
    can_parse_url = True  # it has the address already

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:  # noqa: ARG002  # kombu's
        """The address, to be shown."""
        return str(self.client.transport_options["address"])
