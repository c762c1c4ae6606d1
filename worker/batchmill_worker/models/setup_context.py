"""What an operator may know of the worker that sets it up, beyond the device that `setup` is given."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.storage.locations import Locations

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class SetupContext:
    """What holds for every operator of a worker process.

    locations: the places that users may name; without any, no folder may be read.
    """

    locations: Locations = Locations(())  # noqa: RUF009  # never changed: one may serve all

    @contextmanager
    def active(self) -> Iterator[None]:
        """While it lasts, `current` gives this context to the calling thread."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)


_current: ContextVar[SetupContext] = ContextVar("setup_context")


def current() -> SetupContext:
    """The context of the worker that is calling `setup`; outside of it, one that allows no folder."""
    return _current.get(SetupContext())
