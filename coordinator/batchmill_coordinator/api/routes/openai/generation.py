"""What the routes of language models share: the options of a request, and the results of its rows as choices."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pyarrow as pa
from pydantic import BaseModel, Field

from batchmill_coordinator.api.routes.openai.served import as_invalid_request, refuse
from batchmill_coordinator.api.routes.waiting import EventStream, unless_gone
from batchmill_coordinator.endpoints.generated import Generated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fastapi import Request

    from batchmill_coordinator.api.routes.context import Context
    from batchmill_coordinator.lane.call import LaneCall
    from batchmill_coordinator.lane.target import LaneTarget

MAX_CHOICES = 16
DONE = b"data: [DONE]\n\n"

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

    def options(self, schema: dict[str, Any] | None = None, place: int = 0) -> str:
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
        }
        return json.dumps({name: value for name, value in own.items() if value is not None})


def read_results(results: bytes) -> list[Generated]:
    """Read the results of rows. Raises `InvalidRequest` if they have no text."""
    with as_invalid_request():
        return [Generated.of(row) for row in pa.ipc.open_stream(results).read_all().to_pylist()]


async def answer(request: Request, context: Context, target: LaneTarget, rows: list[dict[str, Any]]) -> list[Generated]:
    """Return the results of rows, as long as the client waits."""

    async def work() -> bytes:
        async with context.lane_call(target, rows) as call:
            return await call.results()

    generated = read_results(await unless_gone(request, work()))
    context.lane_metrics.generated(target.title, sum(row.usage.generated for row in generated))
    return generated


async def stream(
    request: Request,
    context: Context,
    target: LaneTarget,
    rows: list[dict[str, Any]],
    events: Callable[[LaneStream], AsyncIterator[bytes]],
) -> EventStream:
    """Begin to stream the answers to rows: what goes wrong before the first piece is an answer of its own."""
    held = AsyncExitStack()
    try:
        call = await held.enter_async_context(context.lane_call(target, rows, streams=True))
        opened = LaneStream(call, await unless_gone(request, call.next()), len(rows))
    except BaseException:
        await held.aclose()
        raise

    def count(generated: list[Generated]) -> None:
        context.lane_metrics.generated(target.title, sum(row.usage.generated for row in generated))

    opened.on_end = count
    return EventStream(events(opened), held, context.lane_headers)


class LaneStream:
    """The answers to the rows of a call, piece by piece. generated: all of them, once the last piece is read."""

    def __init__(self, call: LaneCall, first: tuple[int, str] | bytes, rows: int) -> None:
        self._call = call
        self._first: tuple[int, str] | bytes | None = first
        self._sent = [0] * rows  # characters
        self.generated: list[Generated] = []
        self.on_end: Callable[[list[Generated]], None] = lambda _: None

    async def pieces(self) -> AsyncIterator[tuple[int, str]]:
        """Yield each row with more text of its answer."""
        while True:
            found = self._first if self._first is not None else await self._call.next()
            self._first = None
            if isinstance(found, bytes):
                break
            row, text = found
            self._sent[row] += len(text)
            yield row, text
        self.generated = read_results(found)
        self.on_end(self.generated)
        for row, result in enumerate(self.generated):
            if rest := result.text[self._sent[row] :]:
                yield row, rest


def event(value: Any, name: str = "") -> bytes:
    """Return a server-sent event."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(value)}\n\n".encode()
