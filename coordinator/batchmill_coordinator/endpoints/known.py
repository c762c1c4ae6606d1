"""The endpoints by their URL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill_coordinator.endpoints.chat import ChatCompletions
from batchmill_coordinator.endpoints.completions import Completions
from batchmill_coordinator.endpoints.embeddings import Embeddings
from batchmill_coordinator.endpoints.operators import PREFIX, OperatorCalls
from batchmill_coordinator.endpoints.responses import Responses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from batchmill.operators.contract import OperatorInfo
    from batchmill.storage.served_models import ModelKind
    from batchmill_coordinator.endpoints.base import Endpoint

_OF_KINDS: tuple[Endpoint, ...] = (Embeddings(), ChatCompletions(), Completions())
ENDPOINTS: dict[str, Endpoint] = {one.url: one for one in (*_OF_KINDS, Responses())}
BY_KIND: dict[ModelKind, Endpoint] = {one.kind: one for one in _OF_KINDS if one.kind is not None}
MAX_NAME_CHARS = 128

URL_PATTERN = rf"^({'|'.join(ENDPOINTS)}|{PREFIX}[\s\S]{{1,{MAX_NAME_CHARS}}})$"
"""Of the URLs that have an endpoint, in the schema of requests."""


def endpoint_of(url: str) -> Endpoint | None:
    """Return the endpoint of a URL, or None if there is none."""
    operator = url.removeprefix(PREFIX)
    if url.startswith(PREFIX) and 0 < len(operator) <= MAX_NAME_CHARS:
        return OperatorCalls(operator)
    return ENDPOINTS.get(url)


def served_params(operator: OperatorInfo, kind: ModelKind | None, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a served model, with those that its rows need, as far as the operator has them."""
    known = operator.params_schema.get("properties", {})
    of_rows = BY_KIND[kind].row_params if kind else {}
    return {**params, **{name: value for name, value in of_rows.items() if name in known}}
