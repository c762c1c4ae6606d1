"""`/v1/operators/NAME`: any operator, which OpenAI's API does not have. A row goes in, and its results come out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.jobs.dead_letters import json_value
from batchmill_coordinator.endpoints.base import BodyFault, Rows, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pyarrow as pa

    from batchmill.storage.served_models import ModelKind, ServedModel
    from batchmill_coordinator.endpoints.base import Answered

PREFIX = "/v1/operators/"


class OperatorCalls:
    """The body has the `row`, and `params` of the operator if it needs any; the answer has `rows`."""

    kind: ModelKind | None = None
    row_params: Mapping[str, Any] = {}

    def __init__(self, operator: str) -> None:
        self.url = PREFIX + operator

    def check(self, model: ServedModel) -> None:
        """See `Endpoint`."""

    def rows(self, body: Mapping[str, Any], model: ServedModel | None) -> Rows:  # noqa: ARG002  # there is none
        """See `Endpoint`."""
        row, params = body.get("row"), body.get("params", {})
        if not isinstance(row, dict) or not row:
            raise BodyFault("Row parameter is required: an object with a value for each column.", "row")
        if not isinstance(params, dict):
            raise BodyFault("'params' must be an object.", "params")
        unknown = next((name for name in body if name not in ("row", "params")), None)
        if unknown is not None:
            raise BodyFault(f"the body has an unknown field {unknown[:80]!r}.", unknown[:80], "unknown_parameter")
        return Rows((row,), params)

    def row_schema(self, model: ServedModel | None) -> pa.Schema | None:  # noqa: ARG002  # there is none
        """See `Endpoint`."""
        return None

    def answer(self, about: Answered, results: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], Usage]:
        """See `Endpoint`. An operator may have made no result of a row, or several."""
        rows = [json_value(row) for row in results]
        usage = sum(map(Usage.of, results), Usage())
        return {"object": "operator.result", "operator": about.model, "rows": rows, "usage": usage.body()}, usage
