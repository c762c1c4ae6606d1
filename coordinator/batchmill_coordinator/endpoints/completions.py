"""`/v1/completions`: the prompt is a row; its result has the text that follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill_coordinator.endpoints.base import BodyFault, Rows, Usage, text_of
from batchmill_coordinator.endpoints.generated import OPTIONS, options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.storage.served_models import ModelKind, ServedModel
    from batchmill_coordinator.endpoints.base import Answered

PROMPT = "prompt"


class Completions:
    """Gives an operator the columns `prompt` and `options`, and reads its column `text`."""

    url = "/v1/completions"
    kind: ModelKind | None = "completions"

    def rows(self, body: Mapping[str, Any]) -> Rows:
        """See `Endpoint`."""
        return Rows(({PROMPT: text_of(body, PROMPT), OPTIONS: options(body)},))

    def row_schema(self) -> pa.Schema:
        """See `Endpoint`."""
        return pa.schema({PROMPT: pa.string(), OPTIONS: pa.string()})

    def params(self, model: ServedModel, given: Mapping[str, Any]) -> dict[str, Any]:
        """See `Endpoint`. A model with a prompt of its own has no room for another."""
        if model.params.get(PROMPT, "{prompt}") != "{prompt}":
            raise BodyFault("the model has a prompt of its own, and takes no other.", "model")
        named = {PROMPT: "{prompt}", OPTIONS: OPTIONS} if model.operator == "generate" else {}
        return {**model.params, **given, **named}

    def answer(self, about: Answered, results: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], Usage]:
        """See `Endpoint`."""
        row = results[0]
        usage = Usage.of(row)
        finish_reason = row.get("finish_reason") or "stop"
        choice = {"index": 0, "text": row.get("text"), "logprobs": None, "finish_reason": finish_reason}
        body = {
            "id": f"cmpl-{about.id}",
            "object": "text_completion",
            "created": about.created_at,
            "model": about.model,
            "choices": [choice],
            "usage": usage.body(),
        }
        return body, usage
