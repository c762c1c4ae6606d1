"""A proxy between a client and a service that counts requests and breaks those that a test names."""

from __future__ import annotations

import asyncio
import io
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web

if TYPE_CHECKING:
    import threading

MAX_BODY_BYTES = 64 * 1024 * 1024
UNSENT = {"Transfer-Encoding", "Connection", "Keep-Alive", "Date", "Server"}


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to the next request of this method to a path that ends so. With no field set: it passes.

    drop: its connection is cut before the service sees it. answer: a status and a body, in place of the service's.
    lose_answer: the service works on it, and its connection is cut before the answer. cut_at: the connection is cut
    after that many bytes of the answer. ends_at: the answer ends after that many bytes, as if that were all of it.
    waits_for: the request is held until the event is set.
    """

    method: str
    path_ending: str
    drop: bool = False
    answer: tuple[int, str] | None = None
    lose_answer: bool = False
    cut_at: int | None = None
    ends_at: int | None = None
    waits_for: threading.Event | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A request that reached the proxy."""

    method: str
    path: str
    body: bytes


class FaultProxy:
    """Forwards HTTP to `upstream`. `requests` has what was asked for, in order; `faults` break the next ones."""

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.port = 0
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.in_flight: Counter[str] = Counter()
        self.most_in_flight: Counter[str] = Counter()
        self._answering: dict[int, web.Request] = {}  # requests equal each other
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Listen: on any free port at first, then on the same again."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._session = aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def close(self) -> None:
        """Stop to listen, and cut all connections."""
        if self._runner is not None and self._session is not None:
            await self.cut("")
            await self._runner.cleanup()
            await self._session.close()
            self._runner = self._session = None

    def asked(self, method: str) -> list[str]:
        """The paths that were asked for by a method."""
        return [request.path for request in self.requests if request.method == method]

    async def cut(self, path_ending: str) -> None:
        """Cut the connections of all requests to such a path that are being answered."""
        for request in list(self._answering.values()):
            if request.path.endswith(path_ending):
                _cut(request)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append(Request(request.method, request.path, body))
        fault = self._next_fault(request)
        self.in_flight[request.method] += 1
        self._answering[id(request)] = request
        self.most_in_flight |= self.in_flight
        try:
            if fault.waits_for is not None:
                await asyncio.to_thread(fault.waits_for.wait)
            if fault.answer is not None:
                return web.Response(status=fault.answer[0], text=fault.answer[1])
            if fault.drop:
                return _cut(request)
            return await self._forward(request, body, fault)
        finally:
            self.in_flight[request.method] -= 1
            del self._answering[id(request)]

    def _next_fault(self, request: web.Request) -> Fault:
        for number, fault in enumerate(self.faults):
            if request.method == fault.method and request.path.endswith(fault.path_ending):
                return self.faults.pop(number)
        return Fault("", "")

    async def _forward(self, request: web.Request, body: bytes, fault: Fault) -> web.StreamResponse:
        assert self._session is not None
        url = self.upstream + request.raw_path
        headers = {name: value for name, value in request.headers.items() if name not in UNSENT}
        async with self._session.request(
            request.method, url, headers=headers, data=io.BytesIO(body), allow_redirects=False
        ) as answered:
            if fault.lose_answer:
                await answered.read()
                return _cut(request)
            kept = {name: value for name, value in answered.headers.items() if name not in UNSENT}
            if fault.ends_at is not None:
                kept.pop("Content-Length", None)
            response = web.StreamResponse(status=answered.status, headers=kept)
            await response.prepare(request)
            await _copy(answered, response, fault.ends_at if fault.cut_at is None else fault.cut_at)
            return response if fault.cut_at is None else _cut(request, response)


async def _copy(answered: aiohttp.ClientResponse, response: web.StreamResponse, limit: int | None) -> None:
    """Send the body on as it is received, at most so many bytes of it."""
    left = limit
    async for piece in answered.content.iter_any():
        await response.write(piece[:left])
        if left is not None:
            left -= len(piece)
            if left <= 0:
                return


def _cut(request: web.Request, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """Cut the connection of a request."""
    if request.transport is not None:
        request.transport.close()
    return response if response is not None else web.Response()
