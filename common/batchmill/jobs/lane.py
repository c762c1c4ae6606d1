"""What a client sends to have rows answered at once."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from batchmill.jobs.frozen import Frozen
from batchmill.jobs.job import DEFAULT_POOL, POOL_PATTERN

MAX_CALL_ROWS = 2048


class CallRequest(Frozen):
    """Rows for an operator with these parameters, in a pool."""

    rows: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=MAX_CALL_ROWS)]
    params: dict[str, Any] = {}  # noqa: RUF012  # pydantic gives each value its own
    pool: Annotated[str, Field(pattern=POOL_PATTERN)] = DEFAULT_POOL
