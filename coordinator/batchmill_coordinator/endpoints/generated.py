"""What the endpoints of language models share: how an answer is chosen, what is generated, and usage."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, Field

from batchmill_coordinator.endpoints.base import BodyFault, Usage, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

OPTIONS = "options"
"""The column with the options of a row, as JSON text: objects would have other fields in each request."""

MAX_CHOICES = 16

Stop = str | Annotated[list[str], Field(max_length=4)] | None
Temperature = Annotated[float | None, Field(ge=0, le=2)]
TopP = Annotated[float | None, Field(gt=0, le=1)]
MaxTokens = Annotated[int | None, Field(ge=1, le=1_000_000)]
Choices = Annotated[int | None, Field(ge=1, le=128)]
Seed = Annotated[int | None, Field(ge=-(1 << 63), lt=1 << 63)]
ModelName = Annotated[str, Field(min_length=1, max_length=256)]


class StreamOptions(BaseModel):
    """include_usage: whether the last event but one has the usage."""

    include_usage: bool = False


class JsonSchemaFormat(BaseModel):
    """A JSON Schema that the answer has to fit."""

    name: str = ""
    json_schema: Annotated[dict[str, Any], Field(alias="schema")] = {}  # pydantic gives each its own


class ResponseFormat(BaseModel):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    def schema_of(self) -> dict[str, Any] | None:
        """Return the schema that answers have to fit; None: any text."""
        match self.type:
            case "text":
                return None
            case "json_object":
                return {"type": "object"}
            case "json_schema":
                if self.json_schema is None or not self.json_schema.json_schema:
                    raise refuse("response_format", "has the type 'json_schema' and no schema")
                return self.json_schema.json_schema


class SamplingFields(BaseModel):
    """How an answer is generated. What is left out is as the served model's parameters say."""

    temperature: Temperature = None
    top_p: TopP = None
    max_tokens: MaxTokens = None
    stop: Stop = None
    seed: Seed = None
    n: Choices = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @property
    def choices(self) -> int:
        """How many answers are asked for to each prompt."""
        count = self.n or 1
        if count > MAX_CHOICES:
            raise refuse("n", f"is {count}, at most {MAX_CHOICES} is supported")
        return count

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def refuse_unsupported(self, *fields: str) -> None:
        """Raise `InvalidRequest` for fields that would change the answer: they are not supported."""
        for name in ("frequency_penalty", "presence_penalty", "logit_bias", *fields):
            if getattr(self, name):
                raise refuse(name, "is not supported")

    def options(
        self, schema: dict[str, Any] | None = None, place: int = 0, more: Mapping[str, Any] | None = None
    ) -> str:
        """Return the options of a row, as JSON text. place: of its choice, which has a seed of its own."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop
        seed = None if self.seed is None else (self.seed + place) % (1 << 63)
        own = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "stop": stop,
            "seed": seed,
            "schema": schema,
            **(more or {}),
        }
        return json.dumps({name: value for name, value in own.items() if value is not None})


@dataclass(frozen=True, slots=True)
class Generated:
    """The result of one row. tool_calls: in OpenAI's form."""

    text: str
    finish_reason: str
    usage: Usage
    tool_calls: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Generated:
        """Read a result with the columns of `chat`; of an operator that makes `text` only, the others are as if empty.

        Raises `BodyFault` if there is no text.
        """
        if "text" not in row:
            raise BodyFault("the model's operator makes no column 'text'.", "model")
        calls = tuple(row.get("tool_calls") or ())
        return cls(str(row["text"]), row.get("finish_reason") or "stop", Usage.of(row), calls)


def usage_of(generated: Sequence[Generated], choices: int = 1) -> Usage:
    """Return the usage of a request whose prompts were each answered by that many rows."""
    prompts = sum((one.usage for one in generated[::choices]), Usage())
    return Usage(prompts.prompt, prompts.cached, sum(one.usage.generated for one in generated))
