"""An index: rows with vectors in a store, and how they were made, so that queries are embedded in the same way."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from batchmill.jobs.frozen import Frozen, Name
from batchmill.jobs.sink import IndexName, SinkSpec


class IndexStatus(Frozen):
    """What a service knows of an index that one of its jobs has published."""

    name: IndexName
    tenant: str
    sink: SinkSpec
    """Where the rows are, and how they were put there."""
    rows: int
    """Rows in the index when it was published last."""
    dimension: int
    """Numbers in a vector."""
    index_kind: str
    """`hnsw`, or `none` if all rows are compared."""
    job: str
    """The job that published it last, replays of it not counted."""
    published_at: float
    """Seconds since the epoch."""
    operator: Name | None = None
    """The operator that made the vectors. None: they are from the source, so a search needs a vector."""
    params: dict[str, Any] = Field(default_factory=dict)
    """The parameters of that operator."""
    pool: str = ""
    """The pool that it ran on."""
