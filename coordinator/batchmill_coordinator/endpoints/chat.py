"""`/v1/chat/completions`: the messages are a row; its result has the text of the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill_coordinator.endpoints.base import BodyFault, Rows
from batchmill_coordinator.endpoints.generated import OPTIONS, Generated, options, usage_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.storage.served_models import ModelKind, ServedModel
    from batchmill_coordinator.endpoints.base import Answered, Usage

MESSAGES = "messages"
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


class ChatCompletions:
    """Gives an operator the columns `messages`, a list of {role, content}, and `options`; reads its column `text`."""

    url = "/v1/chat/completions"
    kind: ModelKind | None = "chat"
    row_params: Mapping[str, Any] = {MESSAGES: MESSAGES, OPTIONS: OPTIONS}

    def check(self, model: ServedModel) -> None:
        """See `Endpoint`. A model with a prompt of its own has no room for messages."""
        if "prompt" in model.params:
            raise BodyFault("the model has a prompt of its own, and takes no messages.", "model")

    def rows(self, body: Mapping[str, Any], model: ServedModel | None) -> Rows:  # noqa: ARG002  # the same for all
        """See `Endpoint`."""
        messages = body.get(MESSAGES)
        if not isinstance(messages, list) or not messages:
            raise BodyFault("Messages parameter is required.", MESSAGES)
        read = [_message(place, one) for place, one in enumerate(messages)]
        return Rows(({MESSAGES: read, OPTIONS: options(body)},))

    def row_schema(self, model: ServedModel | None) -> pa.Schema:  # noqa: ARG002  # the same for all
        """See `Endpoint`."""
        message = pa.struct({"role": pa.string(), "content": pa.string()})
        return pa.schema({MESSAGES: pa.list_(message), OPTIONS: pa.string()})

    def answer(self, about: Answered, results: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], Usage]:
        """See `Endpoint`."""
        return chat_completion(about, [Generated.of(row) for row in results])


def chat_head(about: Answered) -> dict[str, Any]:
    """Return what an answer and each piece of it begin with."""
    return {"id": f"chatcmpl-{about.id}", "created": about.created_at, "model": about.model}


def chat_completion(about: Answered, generated: Sequence[Generated], choices: int = 1) -> tuple[dict[str, Any], Usage]:
    """Make the body of an answer. choices: how many rows have the same messages."""
    usage = usage_of(generated, choices)
    made = [
        {
            "index": place,
            "message": {"role": "assistant", "content": one.text, "refusal": None},
            "logprobs": None,
            "finish_reason": one.finish_reason,
        }
        for place, one in enumerate(generated)
    ]
    return {**chat_head(about), "object": "chat.completion", "choices": made, "usage": usage.body()}, usage


def _message(place: int, one: Any) -> dict[str, str]:
    role = ROLES.get(str(one.get("role"))) if isinstance(one, dict) else None
    if role is None:
        known = ", ".join(ROLES)
        raise BodyFault(f"messages.{place} must have a role out of {known}.", f"{MESSAGES}.{place}", "invalid_value")
    if one.get("tool_calls"):
        raise BodyFault("calls of tools are not supported.", f"{MESSAGES}.{place}", "unsupported_parameter")
    return {"role": role, "content": _content(place, one.get("content"))}


def _content(place: int, content: Any) -> str:
    """Return the text of a message, which may be in parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [None]
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    if len(texts) < len(parts) or not all(isinstance(text, str) for text in texts):
        raise BodyFault(
            f"messages.{place} must have a content of text.", f"{MESSAGES}.{place}.content", "invalid_value"
        )
    return "".join(map(str, texts))
