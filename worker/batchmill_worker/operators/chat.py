"""`chat`: a language model answers a question about each row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from batchmill.errors import InvalidParams
from batchmill.operators.contract import OperatorKind
from batchmill.operators.named_params import COLUMN_FORMAT, TEMPLATE_FORMAT
from batchmill.operators.registration import operator
from batchmill_worker.generation import params
from batchmill_worker.generation.base import Draft
from batchmill_worker.generation.drafts import PromptTemplate, chat, chat_of_column
from batchmill_worker.generation.language_model import (
    LOGPROBS,
    MADE,
    PARTS,
    TOOL_CALLS,
    LanguageModelOperator,
    Settings,
)
from batchmill_worker.generation.selection import EngineRequest

System = Annotated[
    str | None,
    Field(
        min_length=1,
        json_schema_extra={"format": TEMPLATE_FORMAT},
        description="The system message, with columns in braces; by default the model's.",
    ),
]
Question = Annotated[
    str | None,
    Field(
        min_length=1,
        json_schema_extra={"format": TEMPLATE_FORMAT},
        description="The user's message, with columns in braces: Summarise: {body}",
    ),
]
Messages = Annotated[
    str | None,
    Field(
        min_length=1,
        json_schema_extra={"format": COLUMN_FORMAT},
        description="The input column with the messages of a chat, a list of {role, content} or JSON text of one; "
        "instead of prompt and system.",
    ),
]


@operator("chat", makes=(*MADE, LOGPROBS, TOOL_CALLS, PARTS), cacheable=False, kind=OperatorKind.REQUEST)
class Chat(LanguageModelOperator):
    """Answer a question about each row with a language model, by its chat template.

    New columns: `text`, the answer, `finish_reason`, `prompt_tokens`, `cached_tokens`, `generated_tokens`,
    `tokens_cut`, `seed`, `engine` and `model_digest`; `logprobs` if asked for, `tool_calls` of rows with
    tools, `parts` if long prompts are split. A row with a null in a column of the prompt fails.
    """

    def __init__(
        self,
        *,
        model: params.Model,
        prompt: Question = None,
        system: System = None,
        messages: Messages = None,
        max_tokens: params.MaxTokens = 256,
        temperature: params.Temperature = 0.0,
        top_p: params.TopP = 1.0,
        seed: params.Seed = None,
        stop: params.Stop = None,
        schema: params.Schema = None,
        on_long: params.OnLongChat = "error",
        logprobs: params.Logprobs = None,
        tools: params.ToolList = None,
        tool_choice: params.ToolChoice = None,
        options: params.Options = None,
        engine: params.Engine = "auto",
        endpoint: params.Endpoint = None,
        context: params.Context = None,
        places: params.Places = 8,
        threads: params.Threads = None,
        adapters: params.Adapters = None,
        adapter: params.Adapter = None,
        stages: params.Stages = 1,
    ) -> None:
        _refuse_misfits(prompt, system, messages, on_long)
        super().__init__(
            "chat",
            EngineRequest("chat", model, engine, endpoint, context, places, threads, adapters or {}, stages),
            Settings(
                max_tokens,
                temperature,
                top_p,
                seed,
                stop or (),
                schema,
                on_long,
                logprobs,
                options,
                tools,
                tool_choice,
                adapter,
            ),
        )
        self._messages = messages
        self._prompt = PromptTemplate("chat", "prompt", prompt or "")
        self._system = PromptTemplate("chat", "system", system or "")

    def draft(self, row: Mapping[str, Any]) -> Draft:
        """Make the messages of a row."""
        if self._messages is not None:
            return Draft(chat_of_column("chat", row, self._messages))
        return chat(self._system.segments(row), self._prompt.segments(row))


def _refuse_misfits(prompt: str | None, system: str | None, messages: str | None, on_long: str) -> None:
    """Raise `InvalidParams` for parameters that do not go together."""
    if (prompt is None) is (messages is None) or (system is not None and messages is not None):
        raise InvalidParams(
            "operator 'chat' expects either 'prompt', with or without 'system', or 'messages'.",
            hint="Give a prompt such as 'Summarise: {body}', or the column of messages.",
            operator="chat",
            parameter="prompt",
        )
    if on_long == "drop_turns" and messages is None:
        raise InvalidParams(
            "operator 'chat': 'on_long' is 'drop_turns', which needs 'messages': a prompt has one turn.",
            hint="Use 'cut_middle', or give the column of messages.",
            operator="chat",
            parameter="on_long",
        )
