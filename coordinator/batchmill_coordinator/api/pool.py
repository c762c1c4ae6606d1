"""Threads for what requests wait for: storage, the ledger, listings. Their number and their queue are bounded.

Rejected: the threads of the framework. Its queue has no end, health and shutdown would wait in it behind requests
that hang, and its threads keep the process alive after the server has stopped. These are daemons.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from batchmill.errors import Overloaded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

P = ParamSpec("P")
T = TypeVar("T")
_END = object()


class RequestPool:
    """Runs functions in at most `threads` threads, with at most `waiting` more in a queue. Used from one event loop."""

    def __init__(self, threads: int, waiting: int) -> None:
        self._queue: queue.Queue[Callable[[], None]] = queue.Queue(waiting)
        self._max_threads = threads
        self._threads = 0
        self._idle = 0

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what the function returns. Raises what it raises, or `Overloaded` when the queue is full."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()

        def work() -> None:
            if future.cancelled():
                return
            try:
                result = context.run(function, *args, **kwargs)
            except BaseException as error:  # noqa: BLE001  # the request that waits for it raises it
                _hand_over(loop, future, None, error)
            else:
                _hand_over(loop, future, result, None)

        try:
            self._queue.put_nowait(work)
        except queue.Full:
            raise Overloaded(
                f"{self._queue.maxsize} requests are waiting already.", hint="Try again in a moment."
            ) from None
        self._start_thread_if_needed()
        return await future

    async def iterate(self, items: Iterator[T]) -> AsyncIterator[T]:
        """Yield the items, each computed in the pool."""
        while (item := await self.run(next, items, _END)) is not _END:
            yield item  # type: ignore[misc]  # next() gives an item or the sentinel

    def _start_thread_if_needed(self) -> None:
        if self._queue.qsize() > self._idle and self._threads < self._max_threads:
            self._threads += 1
            threading.Thread(target=self._serve, name=f"request-{self._threads}", daemon=True).start()

    def _serve(self) -> None:
        while True:
            self._idle += 1
            work = self._queue.get()
            self._idle -= 1
            work()


def _hand_over(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Any], result: object, error: BaseException | None
) -> None:
    def settle() -> None:
        if future.done():
            return  # the request was cancelled
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:
        return  # the loop is closed: the server has stopped
