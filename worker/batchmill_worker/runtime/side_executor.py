"""Runs the work beside the device: in two threads, or, where nothing can overlap, when its result is needed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from contextlib import AbstractContextManager

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class FutureLike(Protocol[T_co]):
    """Work whose result is collected later: the part of `concurrent.futures.Future` that the executor needs."""

    def done(self) -> bool:
        """Whether `result` returns without waiting."""
        ...

    def result(self) -> T_co:
        """Wait for the work and return its result, or raise what it raised."""
        ...


class SideExecutor(Protocol):
    """Accepts work."""

    def submit(self, work: Callable[..., T], /, *args: Any) -> FutureLike[T]:
        """Accept a call. Its result may be computed at once, in another thread, or when it is collected."""
        ...


class _Deferred(Generic[T]):
    """Work that runs when its result is collected, which happens once."""

    def __init__(self, work: Callable[..., T], *args: Any) -> None:
        self._work = work
        self._args = args

    def done(self) -> bool:
        """Return False: collecting the result means waiting for the work."""
        return False

    def result(self) -> T:
        """Run the work and return its result."""
        return self._work(*self._args)


class InlineExecutor:
    """Runs work in the calling thread, when its result is collected. Used where threads would gain nothing."""

    def submit(self, work: Callable[..., T], /, *args: Any) -> FutureLike[T]:
        """Defer the work."""
        return _Deferred(work, *args)


class _Threads(ThreadPoolExecutor):
    """Threads that run work in the context of the caller, so that its log lines name the caller's attempt."""

    def submit(self, work: Callable[..., T], /, *args: Any, **named: Any) -> Future[T]:
        """Run the work in one of the threads."""
        return super().submit(copy_context().run, work, *args, **named)


def side_executor(name: str, *, overlaps: bool) -> AbstractContextManager[SideExecutor]:
    """Make the executor for one shard, closed with the context: two threads, or none if nothing overlaps."""
    threads: AbstractContextManager[Any] = (
        _Threads(2, thread_name_prefix=f"{name}-side") if overlaps else nullcontext(InlineExecutor())
    )
    return threads
