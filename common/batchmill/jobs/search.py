"""A search in an index, and what it finds."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from batchmill.jobs.frozen import Frozen

MAX_K = 1_000
MAX_DIMENSION = 65_536
MAX_TEXT = 32 * 1024


class SearchRequest(Frozen):
    """The body of `POST /v1/indexes/NAME/search`."""

    text: str | None = Field(default=None, min_length=1, max_length=MAX_TEXT)
    """A text, which is embedded as the rows of the index were."""
    vector: list[float] | None = Field(default=None, min_length=1, max_length=MAX_DIMENSION)
    """Or a vector."""
    k: int = Field(default=10, ge=1, le=MAX_K)
    """How many rows to find, at most."""
    where: dict[str, Any] = Field(default_factory=dict)
    """For each column a value, or an object of comparisons: eq, ne, lt, lte, gt, gte, in. All must hold."""
    columns: list[str] | None = None
    """The columns of the rows to return. None: all but the vectors."""
    model: str | None = None
    """The model that the caller expects: the search is refused if the index was made by another one."""

    @model_validator(mode="after")
    def _has_one_query(self) -> SearchRequest:
        if (self.text is None) == (self.vector is None):
            raise ValueError("expected either a text or a vector")
        return self


class SearchHit(Frozen):
    """A row that was found."""

    id: str | None = None
    """Its id in the store."""
    distance: float
    """How far it is from the query, in the index's metric: smaller is nearer."""
    row: dict[str, Any]
    """Its columns, without the vector."""


class SearchResult(Frozen):
    """What a search found, the nearest first."""

    hits: list[SearchHit]
