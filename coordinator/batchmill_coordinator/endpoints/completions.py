"""`/v1/completions`: the prompt is a row; its result has the text that follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill_coordinator.endpoints.base import BodyFault, Rows, text_of
from batchmill_coordinator.endpoints.generated import OPTIONS, Generated, options, usage_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.storage.served_models import ModelKind, ServedModel
    from batchmill_coordinator.endpoints.base import Answered, Usage

PROMPT = "prompt"
TEMPLATE = "{prompt}"


class Completions:
    """Gives an operator the columns `prompt` and `options`, and reads its column `text`."""

    url = "/v1/completions"
    kind: ModelKind | None = "completions"
    row_params: Mapping[str, Any] = {PROMPT: TEMPLATE, OPTIONS: OPTIONS}

    def check(self, model: ServedModel) -> None:
        """See `Endpoint`. A model with a prompt of its own has no room for another."""
        if model.params.get(PROMPT, TEMPLATE) != TEMPLATE:
            raise BodyFault("the model has a prompt of its own, and takes no other.", "model")

    def rows(self, body: Mapping[str, Any], model: ServedModel | None) -> Rows:  # noqa: ARG002  # the same for all
        """See `Endpoint`."""
        return Rows(({PROMPT: text_of(body, PROMPT), OPTIONS: options(body)},))

    def row_schema(self, model: ServedModel | None) -> pa.Schema:  # noqa: ARG002  # the same for all
        """See `Endpoint`."""
        return pa.schema({PROMPT: pa.string(), OPTIONS: pa.string()})

    def answer(self, about: Answered, results: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], Usage]:
        """See `Endpoint`."""
        return text_completion(about, [Generated.of(row) for row in results])


def text_head(about: Answered) -> dict[str, Any]:
    """Return what an answer and each piece of it begin with."""
    return {"id": f"cmpl-{about.id}", "object": "text_completion", "created": about.created_at, "model": about.model}


def text_choice(place: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    """Return a continuation, or a piece of one."""
    return {"index": place, "text": text, "logprobs": None, "finish_reason": finish_reason}


def text_completion(about: Answered, generated: Sequence[Generated], choices: int = 1) -> tuple[dict[str, Any], Usage]:
    """Make the body of an answer. choices: how many rows have the same prompt."""
    usage = usage_of(generated, choices)
    made = [text_choice(place, one.text, one.finish_reason) for place, one in enumerate(generated)]
    return {**text_head(about), "choices": made, "usage": usage.body()}, usage
