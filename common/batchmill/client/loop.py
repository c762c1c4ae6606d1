"""An event loop on a thread of its own, for callers that block."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator

T = TypeVar("T")
_END: Any = object()
CLOSE_TIMEOUT_S = 5.0
"""The longest wait for running coroutines when the loop is closed."""


class LoopThread:
    """Runs coroutines for other threads until `close`.

    on_close: awaited last, on the loop.
    """

    def __init__(self, on_close: Callable[[], Awaitable[None]]) -> None:
        self._on_close = on_close
        self._pid = os.getpid()
        self._started: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
        self._stopping: asyncio.Event | None = None
        self._open: set[AsyncGenerator[Any, None]] = set()  # generators that are iterated over
        self._closings: set[asyncio.Task[None]] = set()  # of generators that are discarded
        self._thread = threading.Thread(target=self._main, name="batchmill-client", daemon=True)
        self._thread.start()
        self._loop = self._started.result()
        self._is_closed = False

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and wait for its result; an interrupt of the caller cancels it."""
        if self._is_closed or os.getpid() != self._pid:
            coroutine.close()
            raise RuntimeError(
                "this client is closed; create a new one."
                if self._is_closed
                else "this client was created before the process forked; create one in each process."
            )
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise RuntimeError("the client was closed by another thread.") from None
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """Yield the items of an async generator; close it together with this one."""
        self._open.add(items)
        try:
            while (item := self.run(_next(items))) is not _END:
                yield item
        finally:
            self._open.discard(items)
            self._discard(items)

    def close(self) -> None:
        """Cancel running coroutines and end the thread. Closing twice is allowed."""
        if self._is_closed or os.getpid() != self._pid:
            return
        self._is_closed = True
        if self._stopping is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _discard(self, items: AsyncGenerator[T, None]) -> None:
        """Close a generator without waiting: this may run anywhere, the garbage collector on the loop included."""
        if not self._is_closed and os.getpid() == self._pid:
            with suppress(RuntimeError):  # the loop ended in between, and closed it
                self._loop.call_soon_threadsafe(self._begin_to_close, items)

    def _begin_to_close(self, items: AsyncGenerator[Any, None]) -> None:
        closing = self._loop.create_task(_close(items))
        self._closings.add(closing)
        closing.add_done_callback(self._closings.discard)

    def _main(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        self._started.set_result(asyncio.get_running_loop())
        await self._stopping.wait()
        await self._cancel_running()
        await self._on_close()

    async def _cancel_running(self) -> None:
        """Cancel requests, except those already being cancelled: a second cancellation would interrupt their cleanup.

        Close generators from the outermost inwards: `asyncio.run` would close all at once, in each other's way.
        """
        running = asyncio.all_tasks() - {asyncio.current_task()}
        for task in running - self._closings:
            if not task.cancelling():
                task.cancel()
        if running:
            await asyncio.wait(running, timeout=CLOSE_TIMEOUT_S)
        for items in list(self._open):
            await _close(items)


async def _next(items: AsyncGenerator[T, None]) -> T:
    return await anext(items, _END)


async def _close(items: AsyncGenerator[T, None]) -> None:
    with suppress(RuntimeError):  # it is being cancelled, and closes itself
        await items.aclose()
