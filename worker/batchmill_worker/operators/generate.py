"""`generate`: a language model completes a text for each row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchmill.operators.contract import OperatorKind
from batchmill.operators.registration import operator
from batchmill_worker.generation import params
from batchmill_worker.generation.base import Draft, Message
from batchmill_worker.generation.drafts import PromptTemplate
from batchmill_worker.generation.language_model import LOGPROBS, MADE, PARTS, LanguageModelOperator, Settings
from batchmill_worker.generation.selection import EngineRequest


@operator("generate", makes=(*MADE, LOGPROBS, PARTS), cacheable=False, kind=OperatorKind.REQUEST)
class Generate(LanguageModelOperator):
    """Complete a prompt for each row with a language model, without a chat template.

    New columns: `text`, what follows the prompt, and the others of `chat`. Control tokens in the prompt's own text are
    read as such, those in a column's value are text. A row with a null in a column of the prompt fails.
    """

    def __init__(
        self,
        *,
        model: params.Model,
        prompt: params.Prompt,
        max_tokens: params.MaxTokens = 256,
        temperature: params.Temperature = 0.0,
        top_p: params.TopP = 1.0,
        seed: params.Seed = None,
        stop: params.Stop = None,
        schema: params.Schema = None,
        on_long: params.OnLong = "error",
        logprobs: params.Logprobs = None,
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
        super().__init__(
            "generate",
            EngineRequest("generate", model, engine, endpoint, context, places, threads, adapters or {}, stages),
            Settings(
                max_tokens, temperature, top_p, seed, stop or (), schema, on_long, logprobs, options, adapter=adapter
            ),
        )
        self._prompt = PromptTemplate("generate", "prompt", prompt)

    def draft(self, row: Mapping[str, Any]) -> Draft:
        """Put the row into the prompt."""
        return Draft((Message("", self._prompt.segments(row)),), is_chat=False)
