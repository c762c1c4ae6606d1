"""Where the work beside the device is done: in two threads, or, where nothing can overlap, when it is needed."""

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


class Pending(Protocol[T_co]):
    """Work whose result is collected later."""

    def done(self) -> bool:
        """Whether its result is there to be collected without waiting."""
        ...

    def result(self) -> T_co:
        """Its result; what it raised is raised."""
        ...


class Aside(Protocol):
    """Takes work."""

    def submit(self, work: Callable[..., T], /, *args: Any) -> Pending[T]:
        """Take a piece of work."""
        ...


class _Deferred(Generic[T]):
    """Work that is done when its result is collected, once."""

    def __init__(self, work: Callable[..., T], *args: Any) -> None:
        self._work = work
        self._args = args

    def done(self) -> bool:
        """Never: collecting it is doing it."""
        return False

    def result(self) -> T:
        """Do it."""
        return self._work(*self._args)


class Inline:
    """The stand-in for threads: work is done in the calling thread, when needed."""

    def submit(self, work: Callable[..., T], /, *args: Any) -> Pending[T]:
        """Put the work off."""
        return _Deferred(work, *args)


class _Threads(ThreadPoolExecutor):
    """Threads that work in the context of whoever hands the work in, so that their log lines tell whose it is."""

    def submit(self, work: Callable[..., T], /, *args: Any, **named: Any) -> Future[T]:
        """Take a piece of work."""
        return super().submit(copy_context().run, work, *args, **named)


def beside_the_device(name: str, *, overlaps: bool) -> AbstractContextManager[Aside]:
    """Threads for one shard, ended with the context; without any if nothing overlaps."""
    threads: AbstractContextManager[Any] = (
        _Threads(2, thread_name_prefix=f"{name}-aside") if overlaps else nullcontext(Inline())
    )
    return threads
