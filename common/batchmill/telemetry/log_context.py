"""What the lines of a log are about: the job, the shard, the attempt, whatever the code that logs knows of them."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from batchmill.jobs.shard import format_shard_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchmill.jobs.shard import ShardRef

_about: ContextVar[Mapping[str, str | int]] = ContextVar("log_context", default={})  # noqa: B039  # never changed


@contextmanager
def about(**fields: str | int) -> Iterator[None]:
    """While it lasts, lines logged in this context carry these fields too."""
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


@contextmanager
def about_attempt(ref: ShardRef) -> Iterator[None]:
    """While it lasts, lines logged in this context carry the attempt's job, stage, shard and number."""
    with about(job=ref.job_id, stage=ref.stage, shard=format_shard_id(ref.shard_id), attempt=ref.token):
        yield


def fields() -> Mapping[str, str | int]:
    """What lines of the present context carry."""
    return _about.get()
