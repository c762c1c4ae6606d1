"""The seam of engines for language models: a row is rendered, submitted, and comes back piece by piece.

1. `render` turns a draft into a prompt that fits. Any thread may call it, also while the engine computes.
2. `submit` hands a generation to the engine; up to `stats().capacity` may be in flight.
3. `step` waits for a moment and returns what has become of those in flight: new text, an answer, an error.
4. `abort` ends one early. Nothing is returned for it any more.

One thread drives an engine: it calls `submit`, `step`, `abort` and `stats`. Errors are of three kinds: one of a row is
in its `Delta`; one that `step` raises ends all that is in flight; an engine that is busy has no capacity for a while.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from batchmill.operators.contract import RowError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill_worker.generation.logprobs import TokenLogprob

OnLong = Literal["error", "cut_left", "cut_right", "cut_middle", "drop_turns", "split"]
"""What becomes of a row whose prompt is too long: it fails, the longest text that a column gave is cut, the oldest
turns of a conversation are left out, or that text is split and each part is answered."""

_numbers = itertools.count(1)


class TemplateFailed(RowError):
    """The model's chat template does not take the messages of a row."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a message. is_column: a row gave it, so it may be cut, and is never read as a part of a template."""

    text: str
    is_column: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat. role: "" for text that is completed as it is.

    tool_calls: the calls in an assistant's message, JSON text of a list in OpenAI's form; "": none.
    tool_call_id: of the call whose result a message of the role `tool` is.
    """

    role: str
    segments: tuple[Segment, ...]
    tool_calls: str = ""
    tool_call_id: str = ""

    @property
    def text(self) -> str:
        """The complete message."""
        return "".join(segment.text for segment in self.segments)

    def value(self, content: str | None = None) -> dict[str, Any]:
        """Return it in OpenAI's form, with another content if one is given."""
        made: dict[str, Any] = {"role": self.role, "content": self.text if content is None else content}
        if self.tool_calls:
            made["tool_calls"] = json.loads(self.tool_calls)
        if self.tool_call_id:
            made["tool_call_id"] = self.tool_call_id
        return made


@dataclass(frozen=True, slots=True)
class Tools:
    """Functions that the model may call: JSON text of a list in OpenAI's form.

    choice: `auto`, `required`, or the name of the function that it has to call.
    opening: with what a call begins that it has to make and that is given to it; "": the answer is free.
    """

    functions: str
    choice: str = "auto"
    opening: str = ""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a function, in an answer. arguments: JSON text of an object."""

    id: str
    name: str
    arguments: str

    def value(self) -> dict[str, Any]:
        """Return it in OpenAI's form, as a value of the column."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a chat template writes a call: `opening`, then an object with the name and the arguments under these keys."""

    opening: str
    name_key: str
    arguments_key: str

    @property
    def mark(self) -> str:
        """With what a call in the text of an answer begins."""
        return self.opening.strip() or "{"


@dataclass(frozen=True, slots=True)
class Draft:
    """What a row asks. is_chat: whether the model's chat template is put around the messages; else there is one."""

    messages: tuple[Message, ...]
    is_chat: bool = True
    tools: Tools | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an engine is given. tokens: empty where the engine has no tokenizer of its own."""

    draft: Draft
    tokens: tuple[int, ...] = ()
    tokens_cut: int = 0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen.

    schema: JSON Schema as text; "": any text. logprobs: how many likely tokens to report; None: none.
    adapter: the name of that which is added to the model; "": none.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    schema: str = ""
    logprobs: int | None = None
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class Generation:
    """One row for an engine, or one part of a row that is split.

    number: unique in the process.
    may_continue: whether the rest of its answer is the same, to rounding, if another attempt makes it.
    begun_text, begun_tokens: the beginning of the answer, which an earlier attempt has made.
    """

    number: int
    prompt: Prompt
    sampling: Sampling
    seed: int
    may_continue: bool = False
    begun_text: str = ""
    begun_tokens: tuple[int, ...] = ()

    @classmethod
    def numbered(cls, prompt: Prompt, sampling: Sampling, seed: int, *, may_continue: bool = False) -> Generation:
        """Make one with the next number of the process. Thread-safe."""
        return cls(next(_numbers), prompt, sampling, seed, may_continue)


@dataclass(frozen=True, slots=True)
class BegunAnswer:
    """The beginning of an answer, kept for the next attempt. tokens: how many made it, at least. model: its digest."""

    text: str
    tokens: int
    model: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model has answered. finish_reason: `stop`, `length`, or `tool_calls` if the engine reads calls itself."""

    text: str
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int  # of the prompt, which the engine had computed before
    generated_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()  # of its tokens, if asked for
    tool_calls: tuple[ToolCall, ...] = ()  # of an engine that reads them itself


@dataclass(frozen=True, slots=True)
class Delta:
    """What happened to a generation: new text, or its end by an answer or an error.

    tokens: how many tokens made the text, at least: a character may be of several.
    """

    number: int
    text: str = ""
    tokens: int = 0
    answer: Answer | None = None
    error: Exception | None = None

    @property
    def is_end(self) -> bool:
        """Whether nothing more follows."""
        return self.answer is not None or self.error is not None


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What an engine can.

    context: tokens of a prompt with its answer; None: only the service knows.
    places: rows in flight at most.
    keeps_prefixes: whether each place has the tokens of its last row computed, so that the next one need not compute
        those that it shares.
    shares_prefixes: whether a row need not compute those that it shares with any row which has begun its answer.
    is_local: whether it computes on the device of the process, and is expected to make progress all the time.
    has_schemas, has_stops, has_seeds: whether it obeys a schema, stop texts, and the seed of a row.
    has_logprobs: whether it reports the likeliest tokens.
    is_exact: whether a row's likeliest tokens are the same whatever is computed beside it; else rounding may decide.
    continues: whether it continues an answer from its beginning.
    has_tools: whether answers may be calls of functions.
    tool_format: how calls are written in the text of an answer; None: the engine reads them itself.
    vocabulary: how many tokens there are, from 0; None: only the service knows.
    adapters: the names of those that a row may ask for.
    outside_bytes: the memory of the device that it takes in other processes than this one.
    """

    context: int | None
    places: int
    keeps_prefixes: bool = False
    shares_prefixes: bool = False
    is_local: bool = True
    has_schemas: bool = True
    has_stops: bool = True
    has_seeds: bool = True
    has_logprobs: bool = True
    is_exact: bool = True
    continues: bool = False
    has_tools: bool = False
    tool_format: ToolFormat | None = None
    vocabulary: int | None = None
    adapters: frozenset[str] = frozenset()
    outside_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What an engine is at, and the sums since it was set up. capacity: how many may be in flight now."""

    in_flight: int
    capacity: int
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


class TextEngine(Protocol):
    """An engine that is set up.

    name, precision, digest: what computes, in which numbers, and what identifies the model's weights.
    """

    name: str
    precision: str
    digest: str
    limits: EngineLimits

    def render(self, draft: Draft, sampling: Sampling, on_long: OnLong) -> Prompt:
        """Make the prompt of a row. Raises `ContextTooLong`."""
        ...

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text that it has made; only of an engine that continues answers. For any thread."""
        ...

    def takes(self, sampling: Sampling) -> bool:
        """Whether it understands the schema, as far as that is known before the first answer."""
        ...

    def submit(self, generation: Generation, place: int) -> None:
        """Begin a generation. place: below `limits.places`, with nothing else in flight there."""
        ...

    def step(self, wait_s: float) -> Sequence[Delta]:
        """Wait for at most `wait_s` and return what has happened since the last call, in order."""
        ...

    def abort(self, number: int) -> None:
        """End a generation; no effect if it has ended."""
        ...

    def stats(self) -> EngineStats:
        """Return what the engine is at."""
        ...

    def close(self) -> None:
        """Free what the engine took; nothing is in flight."""
        ...
