"""What `generate` and `chat` share: the engine, how tokens are chosen, and the columns of results."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidParams
from batchmill.operators.contract import BackendInfo, RowError
from batchmill.operators.row_errors import ContextTooLong
from batchmill_worker.generation.answers import RowAnswers, joined
from batchmill_worker.generation.base import Answer, Draft, Generation, Message, Prompt, Sampling
from batchmill_worker.generation.engine_check import answer_together, check_engine
from batchmill_worker.generation.fitting import fit_parts
from batchmill_worker.generation.row_options import RowSchemas, read_options
from batchmill_worker.generation.schemas import AnswerSchema
from batchmill_worker.generation.seeds import row_seed
from batchmill_worker.generation.selection import EngineRequest, open_engine
from batchmill_worker.generation.tools import AUTO, choose_tools, read_calls, with_tools
from batchmill_worker.models.setup_context import current

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.columns.lineage import Path
    from batchmill_worker.generation.base import BegunAnswer, EngineLimits, OnLong, TextEngine
    from batchmill_worker.generation.row_options import RowOptions
    from batchmill_worker.generation.tools import Choice, Tool

MADE = (
    "text",
    "finish_reason",
    "prompt_tokens",
    "cached_tokens",
    "generated_tokens",
    "tokens_cut",
    "seed",
    "engine",
    "model_digest",
)
"""The columns of a result."""
LOGPROBS = "logprobs"
"""One more, if the operator asks for it."""
TOOL_CALLS = "tool_calls"
"""One more, of a row with tools: the calls of functions in the answer, a list in OpenAI's form; null: none."""
PARTS = "parts"
"""One more, if prompts that are too long are split: how many parts were answered."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How an operator asks its model. The fields are parameters of the operators."""

    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: Sequence[str]
    schema: Mapping[str, Any] | None
    on_long: OnLong
    logprobs: int | None = None
    options: str | None = None  # the column with a row's own settings
    tools: Sequence[Tool | Mapping[str, Any]] | None = None
    tool_choice: str | None = None
    adapter: str | None = None  # of rows that name none


class LanguageModelOperator:
    """An operator of the kind `REQUEST`; see `RequestOperator`. A subclass makes the drafts of rows."""

    def __init__(self, operator: str, request: EngineRequest, settings: Settings) -> None:
        if request.endpoint is not None and settings.on_long != "error":
            raise InvalidParams(
                f"operator {operator!r}: 'on_long' is {settings.on_long!r}, but only the endpoint knows its tokens.",
                hint="Use 'error', or split long texts with the operator 'chunk' in a stage before.",
                operator=operator,
                parameter="on_long",
            )
        if settings.on_long == "split" and (settings.schema is not None or settings.logprobs is not None):
            raise InvalidParams(
                f"operator {operator!r}: 'on_long' is 'split', so an answer may be of several, which a 'schema' and "
                "'logprobs' do not describe.",
                hint="Split long texts with the operator 'chunk' in a stage before.",
                operator=operator,
                parameter="on_long",
            )
        self._operator = operator
        self._request = request
        self._settings = settings
        self._schema = None
        if settings.schema is not None:
            self._schema = AnswerSchema(operator, settings.schema, retryable=settings.temperature > 0)
        self._sampling = Sampling(
            settings.max_tokens,
            settings.temperature,
            settings.top_p,
            tuple(settings.stop),
            self._schema.text if self._schema else "",
            settings.logprobs,
            settings.adapter or "",
        )
        self._row_schemas = RowSchemas(operator)
        self._tools = self._checked_tools()
        self._engine: TextEngine | None = None

    def _checked_tools(self) -> Choice | None:
        """Return the tools of all rows. Raises `InvalidParams` for what does not go with them."""
        settings = self._settings
        others = {"schema": settings.schema is not None, "on_long": settings.on_long == "split"}
        clash = next((f"there are 'tools' and {name!r}" for name, is_there in others.items() if is_there), "")
        try:
            chosen = choose_tools(settings.tools or (), settings.tool_choice or AUTO)
        except RowError as error:
            chosen, clash = None, str(error)
        if settings.tools and clash:
            raise InvalidParams(
                f"operator {self._operator!r}: {clash}.",
                hint="An answer is a call of a function, or text that fits a schema, and calls are of one prompt.",
                operator=self._operator,
                parameter="tools",
            )
        return chosen

    @property
    def _must_call(self) -> bool:
        return self._tools is not None and self._tools.tools.choice != AUTO

    def draft(self, row: Mapping[str, Any]) -> Draft:
        """Make the draft of a row. Raises `RowError`."""
        raise NotImplementedError

    @property
    def engine(self) -> TextEngine:
        """The engine, once the operator is set up."""
        if self._engine is None:
            raise RuntimeError(f"{self._operator} is used before setup() or after teardown()")
        return self._engine

    def setup(self, device: str) -> None:
        """Load the model and test it. Raises as `open_engine`, and `OperatorFailed` for an engine that fails its test.

        A schema that the engine does not understand is refused with `InvalidParams`.
        """
        self._engine = open_engine(self._request, current(), device, samples=self._sampling.temperature > 0)
        try:
            self._refuse_what_the_engine_lacks(self._engine)
            self._refuse_answers_that_do_not_fit(self._engine.limits.context)
            if self._engine.limits.is_local:
                check_engine(self._operator, self._engine)
            self._refuse_a_schema_that_is_not_understood(self._engine)
        except BaseException:
            self.teardown()
            raise

    def _refuse_what_the_engine_lacks(self, engine: TextEngine) -> None:
        limits, settings = engine.limits, self._settings
        lacking = {
            "schema": settings.schema is not None and not limits.has_schemas,
            "stop": bool(settings.stop) and not limits.has_stops,
            "logprobs": settings.logprobs is not None and not limits.has_logprobs,
            "seed": settings.seed is not None and settings.temperature > 0 and not limits.has_seeds,
            "tools": self._tools is not None and not limits.has_tools,
            "adapters": bool(self._request.adapters) and not limits.adapters,
            "adapter": bool(settings.adapter) and settings.adapter not in limits.adapters,
            "tool_choice": self._must_call and limits.tool_format is not None and not limits.has_schemas,
        }
        for parameter in (name for name, is_lacking in lacking.items() if is_lacking):
            raise InvalidParams(
                f"operator {self._operator!r}: the engine {engine.name!r} has no {parameter!r} with this model.",
                hint="Leave it out, or use the engine 'llamacpp' with a GGUF file of the model; for tools, of a model "
                "whose chat template has them.",
                operator=self._operator,
                parameter=parameter,
            )

    def _refuse_a_schema_that_is_not_understood(self, engine: TextEngine) -> None:
        parameter, sampling = "schema", self._sampling
        if self._tools is not None:  # a call that has to be made has a schema of the arguments
            parameter, sampling = "tools", with_tools(engine.limits, Draft(()), sampling, self._tools)[1]
            if sampling.schema:
                AnswerSchema(self._operator, json.loads(sampling.schema), retryable=False)
        if sampling.schema and not engine.takes(sampling):
            raise InvalidParams(
                f"operator {self._operator!r}: the engine {engine.name!r} does not understand {parameter!r}.",
                hint="Leave out what is not needed of its schema: references to other documents, rare keywords.",
                operator=self._operator,
                parameter=parameter,
            )

    def _refuse_answers_that_do_not_fit(self, context: int | None) -> None:
        if context is not None and self._sampling.max_tokens >= context:
            raise InvalidParams(
                f"operator {self._operator!r}: 'max_tokens' is {self._sampling.max_tokens}, and prompt and answer have "
                f"{context} tokens together.",
                hint="Lower 'max_tokens', or raise 'context' if the model has more.",
                operator=self._operator,
                parameter="max_tokens",
            )

    def teardown(self) -> None:
        """Drop the model."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def memory_bytes(self) -> int:
        """Return the memory that the engine takes where it cannot be measured from here; 0: measure it."""
        return self.engine.limits.outside_bytes

    def computes_with(self) -> BackendInfo:
        """Name the engine."""
        return BackendInfo(name=self.engine.name, precision=self.engine.precision)

    def render(self, row: Mapping[str, Any], path: Path, failures: int) -> Sequence[Generation]:
        """Make the requests of a row: one, unless it is split. Raises `RowError`, `ContextTooLong` among them."""
        options = read_options(self._operator, row, self._settings.options)
        sampling = options.sampling(self._sampling)
        if options.json_schema is not None:
            self._row_schemas.get(sampling.schema)
        engine, settings = self.engine, self._settings
        if sampling.adapter and sampling.adapter not in engine.limits.adapters:
            raise RowError(f"there is no adapter {sampling.adapter!r}")
        own = options.seed is not None  # then it does not depend on the row's place
        if own and sampling.temperature > 0 and not engine.limits.has_seeds:
            raise RowError(f"the engine {engine.name!r} has no seeds")
        base, of_row = (options.seed or 0, ()) if own else (settings.seed or 0, path)
        if options.tokens is not None:
            seed = row_seed(base, of_row, failures)
            return (self._generation(prompt_of_tokens(engine.limits, options.tokens, sampling), sampling, seed),)
        draft = self.draft(row)
        tools = self._tools_of(options)
        if tools is not None:
            draft, sampling = with_tools(engine.limits, draft, sampling, tools)
            if sampling.schema:
                self._row_schemas.get(sampling.schema)
        if settings.on_long != "split":
            prompt = engine.render(draft, sampling, settings.on_long)
            return (self._generation(prompt, sampling, row_seed(base, of_row, failures)),)
        if sampling.schema or draft.tools:
            raise RowError("a row of an operator that splits long prompts cannot have a schema or tools")
        prompts = fit_parts(lambda one: engine.render(one, sampling, "error"), draft)
        if len(prompts) == 1:
            return (self._generation(prompts[0], sampling, row_seed(base, of_row, failures)),)
        return [
            Generation.numbered(prompt, sampling, row_seed(base, (*of_row, part), failures))
            for part, prompt in enumerate(prompts)
        ]

    def _tools_of(self, options: RowOptions) -> Choice | None:
        if options.tools is None and options.tool_choice is None:
            return self._tools
        if options.tools is None and not self._settings.tools:
            raise RowError("there is a 'tool_choice' and there are no tools")
        return choose_tools(options.tools or self._settings.tools or (), options.tool_choice or AUTO)

    def _generation(self, prompt: Prompt, sampling: Sampling, seed: int) -> Generation:
        """Make a request. The state of a random generator, a grammar or a search for stop texts is in no answer."""
        chosen = sampling.temperature or sampling.schema or sampling.stop or sampling.logprobs is not None
        is_plain = not (chosen or prompt.draft.tools)
        return Generation.numbered(prompt, sampling, seed, may_continue=is_plain and self.engine.limits.continues)

    def resume(self, generation: Generation, begun: BegunAnswer) -> Generation:
        """Continue an answer that an earlier attempt has begun, with the same model, if its tokens are known for sure.

        Text that the model made of other tokens than its tokenizer makes of it begins anew. Only characters beyond
        ASCII may be of more tokens than were counted.
        """
        if not generation.may_continue or begun.model != self.engine.digest:
            return generation
        tokens = self.engine.encode(begun.text)
        is_known = len(tokens) == begun.tokens or (len(tokens) > begun.tokens and not begun.text.isascii())
        if not is_known or len(tokens) >= generation.sampling.max_tokens:
            return generation
        return replace(generation, begun_text=begun.text, begun_tokens=tokens)

    def result(self, generations: Sequence[Generation], answers: Sequence[Answer]) -> dict[str, Any]:
        """Make the result of a row. Raises `InvalidOutput` or `OutputTruncated` if the answer does not fit a schema."""
        generation, answer = generations[0], joined(answers)
        schema = generation.sampling.schema
        if self._schema is not None and schema == self._schema.text:
            self._schema.check(answer)
        elif schema:
            self._row_schemas.get(schema).check(answer)
        tools, form = generation.prompt.draft.tools, self.engine.limits.tool_format
        text, calls = read_calls(form, generation, answer) if tools and form else (answer.text, answer.tool_calls)
        values = (
            text,
            "tool_calls" if calls and answer.finish_reason == "stop" else answer.finish_reason,
            answer.prompt_tokens,
            answer.cached_tokens,
            answer.generated_tokens,
            generation.prompt.tokens_cut,
            generation.seed if self.engine.limits.has_seeds else None,
            self.engine.name,
            self.engine.digest,
        )
        made: dict[str, Any] = dict(zip(MADE, values, strict=True))
        if generation.sampling.logprobs is not None:
            made[LOGPROBS] = [one.value() for one in answer.logprobs]
        if tools is not None:
            made[TOOL_CALLS] = [call.value() for call in calls] or None
        if self._settings.on_long == "split":
            made[PARTS] = len(answers)
        return made

    def infer(self, batch: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | RowError]:
        """Answer a batch of rows that begin together, and wait for all of them, outside of a worker.

        A worker lets rows enter and leave one by one instead, which takes less time.
        """
        requests: list[tuple[int, Generation]] = []
        rows = RowAnswers()
        for index, row in enumerate(batch):
            generations = self.render(row, (index,), 0)
            rows.ask(index, generations)
            requests += [(index, generation) for generation in generations]
        results: dict[int, dict[str, Any] | RowError] = {}
        for start in range(0, len(requests), self.engine.limits.places):
            group = requests[start : start + self.engine.limits.places]
            answers = answer_together(self.engine, [generation for _, generation in group])
            for (index, generation), answer in zip(group, answers, strict=True):
                result = self._settle(rows, index, generation, answer)
                if result is not None:
                    results[index] = result
        return [results[index] for index in range(len(batch))]

    def _settle(
        self, rows: RowAnswers, index: int, generation: Generation, answer: Answer | Exception
    ) -> dict[str, Any] | RowError | None:
        """Return the result of a row, or its error; None while it waits for other answers."""
        try:
            made = rows.add(index, generation, answer)
            return None if made is None else self.result(*made)
        except RowError as error:
            return error


def prompt_of_tokens(limits: EngineLimits, tokens: Sequence[int], sampling: Sampling) -> Prompt:
    """Make the prompt of a row that brings tokens. Raises `ContextTooLong`, and `RowError` for unknown tokens."""
    if limits.vocabulary is not None and max(tokens) >= limits.vocabulary:
        raise RowError(f"the prompt has the token {max(tokens)}, and the model's are 0 to {limits.vocabulary - 1}")
    room = None if limits.context is None else limits.context - sampling.max_tokens
    if room is not None and len(tokens) > room:
        raise ContextTooLong(f"the prompt has {len(tokens)} tokens, and the context has room for {max(room, 0)}")
    return Prompt(Draft((Message("", ()),), is_chat=False), tuple(tokens))
