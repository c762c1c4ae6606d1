"""`/v1/completions`: the prompt is a row; its result has the text that follows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
from pydantic import Field

from batchmill_coordinator.endpoints.base import BodyFault, Rows, parsed, refuse
from batchmill_coordinator.endpoints.generated import OPTIONS, Generated, ModelName, SamplingFields, usage_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.storage.served_models import ModelKind, ServedModel
    from batchmill_coordinator.endpoints.base import Answered, Usage

PROMPT = "prompt"
TEMPLATE = "{prompt}"
CHOICES = "choices"
MAX_PROMPTS = 256
MAX_TOKENS = 1_000_000
"""Of one prompt; more than any context has."""

Text = Annotated[str, Field(min_length=1)]
Token = Annotated[int, Field(ge=0, lt=1 << 31)]
TokenList = Annotated[list[Token], Field(min_length=1, max_length=MAX_TOKENS)]
Tokens = Annotated[
    TokenList | Annotated[list[TokenList], Field(min_length=1, max_length=MAX_PROMPTS)],
    Field(description="Tokens of the model's own tokenizer."),
]


class CompletionRequest(SamplingFields):
    """Texts to continue. Fields that it does not name are ignored."""

    model: ModelName
    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_PROMPTS)] | Tokens
    echo: bool | None = None
    suffix: str | None = None
    logprobs: int | None = None
    best_of: int | None = None


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
        asked = parsed(body, CompletionRequest)
        rows = tuple(rows_of_completion(asked))
        return Rows(rows, form={CHOICES: asked.choices} if asked.choices > 1 else {})

    def row_schema(self, model: ServedModel | None) -> pa.Schema:  # noqa: ARG002  # the same for all
        """See `Endpoint`."""
        return pa.schema({PROMPT: pa.string(), OPTIONS: pa.string()})

    def answer(self, about: Answered, results: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], Usage]:
        """See `Endpoint`."""
        return text_completion(about, [Generated.of(row) for row in results], about.form.get(CHOICES, 1))


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


def rows_of_completion(asked: CompletionRequest) -> list[dict[str, Any]]:
    """Return the rows of a request: one for each choice of a text. Raises `BodyFault`."""
    asked.refuse_unsupported("echo", "suffix", "logprobs")
    if asked.best_of not in (None, 1, asked.choices):
        raise refuse("best_of", "is not supported")
    is_one = isinstance(asked.prompt, str) or isinstance(asked.prompt[0], int)
    prompts = [asked.prompt] if is_one else asked.prompt
    return [_row(asked, prompt, place) for prompt in prompts for place in range(asked.choices)]


def _row(asked: CompletionRequest, prompt: Any, place: int) -> dict[str, Any]:
    """Return a row with a text; one with tokens has them among its options, and no text."""
    if isinstance(prompt, str):
        return {"prompt": prompt, "options": asked.options(place=place)}
    return {"prompt": "", "options": asked.options(place=place, more={"tokens": prompt})}
