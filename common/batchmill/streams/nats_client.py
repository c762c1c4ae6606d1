"""A process's connections to NATS servers: each an asyncio client on an event loop, in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from nats.aio.client import Client
from nats.errors import ConnectionClosedError
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from batchmill.streams.base import Message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from nats.js import JetStreamContext

    from batchmill.storage.named_stream_servers import NamedStreamServer

T = TypeVar("T")

TIMEOUT_S = 5.0
"""For an answer of the server."""
MAX_CALL_S = 60.0
"""For all that is read at once."""
RECONNECT_S = 0.5
"""Between two attempts to connect again."""
MAX_ERRORS = 3
READ_AT_ONCE = 500
MAX_PAYLOAD = 1024**2
"""Of a server that says nothing else, in bytes."""
UNUSED_S = 30.0
"""Then the server forgets a consumer that a process has left."""
ERRORS = (NatsError, OSError, TimeoutError)
"""What is raised while the server is away, or refuses something."""


class Connection(Client):
    """A client that encrypts its connection if it has the option `tls`, whatever the server says.

    A server, or who answers in its place, says in plain text whether to encrypt; the password follows that.
    """

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # as it is called
        if "tls" in self.options:
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)


class NatsClient:
    """One connection, made when it is first used; the client connects again by itself. Thread-safe."""

    def __init__(self, server: NamedStreamServer) -> None:
        self._server = server
        self._client: Client | None = None
        self._errors: dict[str, None] = {}  # what the client has met since it was connected, as a set in order
        self._connecting = asyncio.Lock()
        self._loop = asyncio.new_event_loop()  # of its own: a client belongs to one loop, whatever threads use it
        threading.Thread(target=self._loop.run_forever, name="nats", daemon=True).start()

    def call(self, work: Callable[[JetStreamContext], Awaitable[T]], timeout_s: float = MAX_CALL_S) -> T:
        """Do some work on the event loop. Raises `ERRORS`."""
        future = asyncio.run_coroutine_threadsafe(self._do(work), self._loop)
        try:
            return future.result(timeout_s)
        except TimeoutError:
            future.cancel()
            raise

    @property
    def max_payload(self) -> int:
        """The most bytes that a message of the server may have, as it was last heard."""
        return MAX_PAYLOAD if self._client is None else self._client.max_payload

    async def _do(self, work: Callable[[JetStreamContext], Awaitable[T]]) -> T:
        client = await self._connected()
        return await work(client.jetstream(timeout=TIMEOUT_S))

    async def _connected(self) -> Client:
        async with self._connecting:
            if self._client is None or self._client.is_closed:
                self._client = await self._connect()
            if not self._client.is_connected:
                raise self._not_connected() or ConnectionClosedError
            return self._client

    async def _connect(self) -> Client:
        self._errors.clear()
        client = Connection()
        try:
            options = {"error_cb": self._on_error, "disconnected_cb": self._on_loss, **_options(self._server)}
            await asyncio.wait_for(client.connect(**options), TIMEOUT_S)
        except TimeoutError as error:
            raise self._not_connected() or error from None
        return client

    def _not_connected(self) -> NatsError | None:
        """Say why there is no connection; None: that is not known."""
        return NatsError(f"not connected: {'; '.join(self._errors)}") if self._errors else None

    async def _on_error(self, error: Exception) -> None:
        if len(self._errors) < MAX_ERRORS:  # which follow each other: an error of the server, then of the socket
            self._errors[str(error) or type(error).__name__] = None

    async def _on_loss(self) -> None:
        self._errors.clear()  # they were about the connection that is lost


async def read_messages(
    stream: JetStreamContext, name: str, first: int, last: int, max_rows: int, max_bytes: int, max_payload: int
) -> list[Message]:
    """Read messages from one sequence number to another one, up to limits; those that are gone are left out.

    max_payload: the most bytes that one may have. A server sends all that is asked for, so no more is than fits.
    """
    found: list[Message] = []
    async with _consumer(stream, name, first) as (pull, pending):
        while pending and len(found) < max_rows and max_bytes > 0:
            fitting = max(max_bytes // max_payload, 1)
            some = await pull.fetch(min(max_rows - len(found), pending, READ_AT_ONCE, fitting), timeout=TIMEOUT_S)
            for one in some:
                about = one.metadata
                if about.sequence.stream > last or max_bytes <= 0:
                    return found
                at_ms = int(about.timestamp.timestamp() * 1000)
                found.append(Message(str(about.sequence.stream), bytes(one.data), at_ms))
                max_bytes -= len(one.data)
            pending = some[-1].metadata.num_pending
    return found


async def wait_for_message(stream: JetStreamContext, name: str, first: int, timeout_s: float) -> bool:
    """Wait until there is a message with a sequence number, or a higher one; return whether there is."""
    async with _consumer(stream, name, first, headers_only=True) as (pull, pending):
        if pending:
            return True
        try:
            return bool(await pull.fetch(1, timeout=max(timeout_s, 0.01)))
        except TimeoutError:
            return False


@contextlib.asynccontextmanager
async def _consumer(stream: JetStreamContext, name: str, first: int, **options: Any) -> AsyncIterator[tuple[Any, int]]:
    """Make a consumer that begins with a message and is forgotten with this; yields it and how many messages it has.

    Nothing is acknowledged, so nothing is delivered again.
    """
    config = ConsumerConfig(
        ack_policy=AckPolicy.NONE,
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=max(first, 1),
        inactive_threshold=UNUSED_S,
        mem_storage=True,
        num_replicas=1,
        **options,
    )
    made = await stream.add_consumer(name, config)
    pull = await stream.pull_subscribe_bind(consumer=made.name, stream=name)
    try:
        yield pull, made.num_pending or 0
    finally:
        with contextlib.suppress(*ERRORS):  # the server forgets it by itself
            await pull.unsubscribe()
            await stream.delete_consumer(name, made.name)


@lru_cache(maxsize=16)
def nats_client(server: NamedStreamServer) -> NatsClient:
    """Return the client of a server: one for the process."""
    return NatsClient(server)


def _options(server: NamedStreamServer) -> dict[str, Any]:
    options: dict[str, Any] = {
        "servers": [f"nats://{address}" for address in server.addresses],
        "name": "batchmill",
        "connect_timeout": TIMEOUT_S,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": RECONNECT_S,
    }
    password = server.password()
    if server.user is not None:
        options |= {"user": server.user, "password": password}
    elif password is not None:
        options["token"] = password
    if server.encrypted:
        options["tls"] = ssl.create_default_context(cafile=None if server.ca_file is None else str(server.ca_file))
    return options
