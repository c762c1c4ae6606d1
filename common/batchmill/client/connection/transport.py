"""HTTP to the service: one pool of kept-alive connections, typed errors, and retries.

A request is retried when its connection breaks or the service is unavailable for a moment, but only if a repetition is
harmless, and only after the service has answered once: a wrong address is reported at once.
"""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import aiohttp
from pydantic import BaseModel, ValidationError

from batchmill.backoff import Backoff
from batchmill.client.connection.reachability import why_unreachable
from batchmill.errors import (
    BatchmillError,
    PayloadTooLarge,
    ServiceUnavailable,
    Unauthorized,
    from_envelope,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from aiohttp.abc import AbstractStreamWriter

    from batchmill.client.connection.service import ServiceAddress

    Query = Mapping[str, str] | Sequence[tuple[str, str]]

CONNECT_TIMEOUT_S = 10.0
ANSWER_TIMEOUT_S = 120.0  # between two bytes of an answer; a long poll ends well before
BACKOFF = Backoff(base_s=0.1, max_s=3.2)
MAX_RETRIES = 12  # about 13 s in all, which a service that starts again needs
READ_BUFFER_BYTES = 4 * 1024 * 1024
WRITE_SLICE_BYTES = 256 * 1024

_BROKEN = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)
_UNAVAILABLE = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, ServiceUnavailable)

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A successful answer, read to its end."""

    headers: Mapping[str, str]  # names match in any case
    body: bytes


class BufferPayload(aiohttp.Payload):
    """A request body in a buffer: sent in slices without a full copy, and sent again for a retry."""

    _value: memoryview
    _autoclose = True

    def __init__(self, value: memoryview, content_type: str) -> None:
        super().__init__(value, content_type=content_type)
        self._size = value.nbytes

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The body as text."""
        return bytes(self._value).decode(encoding, errors)

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Write the body, waiting whenever the connection is full."""
        for start in range(0, self._value.nbytes, WRITE_SLICE_BYTES):
            await writer.write(self._value[start : start + WRITE_SLICE_BYTES])


class Transport:
    """Requests to one service. Belongs to the event loop of its first request."""

    def __init__(self, address: ServiceAddress, rng: random.Random | None = None) -> None:
        self.address = address
        self.rng = rng or random.Random()  # noqa: S311  # jitter, not a secret
        self.has_answered = False  # at least once
        self._session: aiohttp.ClientSession | None = None

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        accept: str = "application/json",
        body: BufferPayload | None = None,
        retry: bool = True,
    ) -> HttpAnswer:
        """Send a request and read the answer.

        retry: whether sending it twice does no harm. Raises the typed error that the service answered with, or
        `ServiceUnavailable` when it cannot be reached.
        """
        patience = Patience(self)
        while True:
            try:
                async with self.open(method, path, query=query, accept=accept, body=body) as response:
                    return HttpAnswer(response.headers, await response.read())
            except (aiohttp.ClientError, ServiceUnavailable) as error:
                if not retry:
                    raise self.unavailable(error) from error
                await patience.pause(error)

    async def json(self, method: str, path: str, *, body: BaseModel | None = None, **options: Any) -> Any:
        """Like `call`, with a JSON body both ways."""
        payload = None
        if body is not None:
            text = body.model_dump_json(exclude_defaults=True).encode()
            payload = BufferPayload(memoryview(text), "application/json")
        answer = await self.call(method, path, body=payload, **options)
        return self.decode(answer.body)

    def decode(self, text: str | bytes) -> Any:
        """Parse a JSON text from the service."""
        try:
            return json.loads(text)
        except ValueError as error:
            raise self._foreign_answer("not JSON") from error

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        accept: str = "application/json",
        body: BufferPayload | None = None,
        read_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Yield a successful answer, its body unread. Tries once; raises typed errors and `aiohttp.ClientError`."""
        timeout = aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT_S, sock_read=read_timeout_s)
        async with self._open_session().request(
            method,
            self.address.url + path,
            params=query,
            data=body,
            headers={"Accept": accept},
            timeout=timeout,
            allow_redirects=False,
        ) as response:
            if response.status >= 300:
                raise await self._error(response)
            self.has_answered = True
            yield response

    def parse(self, model: type[M], value: object) -> M:
        """Validate a JSON answer; fields that a newer service added are ignored."""
        try:
            return model.model_validate(value, extra="ignore")
        except ValidationError as error:
            raise self._foreign_answer(model.__name__) from error

    def unavailable(self, error: Exception) -> BatchmillError:
        """Return the error for a service that cannot be reached."""
        if isinstance(error, BatchmillError):
            return error
        reason = why_unreachable(error)
        if reason is None:
            return ServiceUnavailable(
                f"{self.address.url} did not answer with {self.address.url.partition(':')[0].upper()}.",
                hint="Check the URL: is it http or https, and the port of a Batchmill service?",
                url=self.address.url,
            )
        return ServiceUnavailable(
            f"the service at {self.address.url} cannot be reached: {reason}.",
            hint="Check that it runs (`batchmill up`, `batchmill coordinator`) and that the URL is right.",
            url=self.address.url,
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            headers = {"Accept-Encoding": "identity"}
            if self.address.token:
                headers["Authorization"] = f"Bearer {self.address.token}"
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=headers,
                auto_decompress=False,
                read_bufsize=READ_BUFFER_BYTES,
            )
        return self._session

    async def _error(self, response: aiohttp.ClientResponse) -> BatchmillError:
        status = response.status
        text = await response.read()
        if status < 400:
            return BatchmillError(
                f"{self.address.url} answered {status}: it redirects to {response.headers.get('Location', '?')}.",
                hint="Use that address as the service's URL.",
            )
        try:
            body = json.loads(text)
        except ValueError:
            body = None
        if isinstance(body, dict) and isinstance(body.get("error"), dict):
            return from_envelope(body, status)
        kind = _KIND_OF_STATUS.get(status, BatchmillError)
        return kind(
            f"{self.address.url} answered {status} to {response.method} {response.url.path}, not as Batchmill does.",
            hint="Check the URL, and any proxy in between.",
        )

    def _foreign_answer(self, what: str) -> BatchmillError:
        return BatchmillError(
            f"{self.address.url} sent an answer that this client does not understand ({what}).",
            hint="Check that the URL is that of a Batchmill service, and that its version is close to this client's.",
        )


_KIND_OF_STATUS: dict[int, type[BatchmillError]] = {
    401: Unauthorized,
    403: Unauthorized,
    413: PayloadTooLarge,
    502: ServiceUnavailable,
    503: ServiceUnavailable,
    504: ServiceUnavailable,
}


class Patience:
    """Limits the retries of one request and waits between them."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._tries = 0

    def renew(self) -> None:
        """Start again from the first delay: the service has answered."""
        self._tries = 0

    async def pause(self, error: Exception) -> None:
        """Wait before the next try, or raise the error for the user when no try is left."""
        never_answered = not self._transport.has_answered and isinstance(error, _UNAVAILABLE)
        if never_answered or not isinstance(error, (*_UNAVAILABLE, *_BROKEN)) or self._tries >= MAX_RETRIES:
            raise self._transport.unavailable(error) from error
        self._tries += 1
        await asyncio.sleep(BACKOFF.delay_s(self._tries, self._transport.rng))
