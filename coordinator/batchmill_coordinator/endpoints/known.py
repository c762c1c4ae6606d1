"""The endpoints by their URL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill_coordinator.endpoints.chat import ChatCompletions
from batchmill_coordinator.endpoints.completions import Completions
from batchmill_coordinator.endpoints.embeddings import Embeddings
from batchmill_coordinator.endpoints.operators import PREFIX, OperatorCalls

if TYPE_CHECKING:
    from batchmill_coordinator.endpoints.base import Endpoint

ENDPOINTS: dict[str, Endpoint] = {one.url: one for one in (Embeddings(), ChatCompletions(), Completions())}
MAX_NAME_CHARS = 128


def endpoint_of(url: str) -> Endpoint | None:
    """Return the endpoint of a URL, or None if there is none."""
    operator = url.removeprefix(PREFIX)
    if url.startswith(PREFIX) and 0 < len(operator) <= MAX_NAME_CHARS:
        return OperatorCalls(operator)
    return ENDPOINTS.get(url)
