"""OpenVINO GenAI in this process, on the CPU: folders with a model in OpenVINO's form, with continuous batching.

1. `step` computes the next token of all rows in flight in one pass, in the calling thread. A row enters at the next
   pass; a prompt of many tokens is computed in pieces beside the tokens of the others.
2. The cache has room for every row at its longest, so that none is put off. Blocks that rows share are computed once,
   if the first row has computed them when the second one enters.
3. Numbers are bfloat16 on processors that compute in it, else float32.
4. The library takes prompts that are longer than the context, and answers nonsense: they are counted here.

The library holds Python's lock during a pass, so other threads of the process run between two. Stop texts are looked
for here, in what the tokenizer makes of the tokens.

It knows no JSON Schema: the library's grammars permit whitespace everywhere, which small models spend their tokens on.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from batchmill.errors import InvalidParams, MissingExtra, OperatorFailed
from batchmill.operators.contract import RowError
from batchmill_worker.backends.openvino_library import computes_in, library
from batchmill_worker.generation.base import Delta, EngineLimits, EngineStats
from batchmill_worker.generation.engines.hf_folder import context_of, end_tokens, file_bytes, token_bytes
from batchmill_worker.generation.engines.hf_tokenizer import HfTokenizer
from batchmill_worker.generation.engines.llamacpp import default_threads
from batchmill_worker.generation.engines.memory_needs import MemoryNeeds
from batchmill_worker.generation.engines.token_answer import TokenAnswer
from batchmill_worker.generation.fitting import fit
from batchmill_worker.models.model_source import content_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill_worker.generation.base import Draft, Generation, OnLong, Prompt, Sampling
    from batchmill_worker.models.model_memory import SlotMemory

NAME = "openvino"
EXTRA = "genai"
GRAPH = "openvino_model.xml"
"""The file that marks a folder with a model in OpenVINO's form."""
WEIGHTS = "openvino_model.bin"
PAGE_TOKENS = 32
"""Rows share a prefix in blocks of that many tokens, which is the library's choice on CPUs."""
BATCH_TOKENS = 512
"""Tokens of one pass: between two passes the engine shows progress, and a row may enter."""
_NUMBERS = {"bfloat16": ("bf16", 2), "float32": ("f32", 4)}


class OpenVinoError(Exception):
    """OpenVINO has failed."""


class OpenVinoEngine:
    """See `TextEngine`. source: a folder.

    Raises `MissingExtra` without the libraries, `InvalidParams` for a model that does not fit into `memory` or
    `context`, and `OperatorFailed` for one that cannot be loaded.
    """

    name = NAME

    def __init__(
        self,
        operator: str,
        source: str,
        *,
        context: int | None,
        places: int,
        threads: int | None,
        memory: SlotMemory | None,
    ) -> None:
        self._operator = operator
        self._source = source
        self._threads = threads or default_threads()
        self._library, transformers = _import(operator)
        self.precision = "bfloat16" if computes_in("bfloat16") else "float32"
        try:
            config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            self._tokenizer = HfTokenizer(operator, source, tokenizer)
            tokens = context_of(operator, source, config, context)
            weights, token = file_bytes(source, WEIGHTS), token_bytes(config, _NUMBERS[self.precision][1])
            MemoryNeeds(weights, token, tokens, places).refuse_if_too_large(operator, source, memory)
            self._ends = end_tokens(source, self._tokenizer.end)
            self._blocks = places * (-(-tokens // PAGE_TOKENS) + 1)
            self._pipeline: Any = self._open(places)
        except (InvalidParams, MemoryError):
            raise
        except Exception as error:
            raise _unloadable(operator, source, error) from error
        self.digest = content_digest(source)
        self.limits = EngineLimits(
            tokens,
            places,
            shares_prefixes=True,
            has_schemas=False,
            has_logprobs=False,
            is_exact=self.precision == "float32",
            continues=True,
            has_tools=self._tokenizer.tool_format is not None,
            tool_format=self._tokenizer.tool_format,
            vocabulary=int(config.get_text_config().vocab_size),
        )
        self._running: dict[int, tuple[TokenAnswer, Any]] = {}
        self._refused: list[Delta] = []
        self._sums = (0, 0)

    def render(self, draft: Draft, sampling: Sampling, on_long: OnLong) -> Prompt:
        """Make the prompt of a row. Raises `ContextTooLong`, and `RowError` for a schema of its own."""
        if sampling.schema:
            raise RowError(f"the engine {NAME!r} knows no schemas")
        return fit(self._tokenizer, draft, (self.limits.context or 0) - sampling.max_tokens, on_long)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text that it has made."""
        return self._tokenizer.encode(text)

    def takes(self, sampling: Sampling) -> bool:
        """Return whether there is no schema: it knows none."""
        return not sampling.schema

    def submit(self, generation: Generation, place: int) -> None:  # noqa: ARG002  # rows share one cache
        """Begin a generation."""
        tokens = np.array([[*generation.prompt.tokens, *generation.begun_tokens]], np.int64)
        try:
            if self._pipeline is None:
                self._pipeline = self._open(self.limits.places)
            handle = self._pipeline.add_request(generation.number, library().Tensor(tokens), self._settings(generation))
        except (RuntimeError, ValueError) as error:
            self._refused.append(Delta(generation.number, error=OpenVinoError(str(error))))
        else:
            self._running[generation.number] = TokenAnswer(generation, self._tokenizer), handle

    def step(self, wait_s: float) -> Sequence[Delta]:
        """Compute a token of each row in flight. Raises `OpenVinoError`."""
        found, self._refused = self._refused, []
        if not self._running:
            if not found:
                time.sleep(wait_s)  # nothing is computed until the caller submits a row
            return found
        try:
            self._pipeline.step()
            return [*found, *(self._delta(answer, handle) for answer, handle in list(self._running.values()))]
        except RuntimeError as error:
            # The weights would be in memory twice if the next pipeline was opened before this one is gone.
            self._running.clear()
            self._pipeline = None
            raise OpenVinoError(str(error)) from error

    def abort(self, number: int) -> None:
        """End a generation at the next pass."""
        _, handle = self._running.pop(number, (None, None))
        if handle is not None:
            handle.cancel()

    def stats(self) -> EngineStats:
        """Return what the engine is at. The library does not report what it had in its cache."""
        return EngineStats(len(self._running), self.limits.places, self._sums[0], 0, self._sums[1])

    def close(self) -> None:
        """Free the model."""
        for number in list(self._running):
            self.abort(number)
        self._pipeline = None

    def _delta(self, answer: TokenAnswer, handle: Any) -> Delta:
        """Read what a pass has made of a row; nothing while its prompt is computed, which is progress, too."""
        tokens: list[int] = []
        reason: Any = None
        while handle.can_read():
            for output in handle.read().values():
                tokens += output.generated_ids
                reason = output.finish_reason
        delta = answer.more(tokens)
        statuses, reasons = self._library.GenerationStatus, self._library.GenerationFinishReason
        status = handle.get_status()
        if status == statuses.RUNNING and not answer.is_stopped:
            return delta
        del self._running[delta.number]
        if answer.is_stopped:
            handle.cancel()
        elif status != statuses.FINISHED:
            return Delta(delta.number, error=OpenVinoError(f"the row was ended with the status {status.name}"))
        made = answer.end("length" if reason == reasons.LENGTH else "stop")
        self._sums = (self._sums[0] + made.prompt_tokens, self._sums[1] + made.generated_tokens)
        return Delta(delta.number, delta.text, answer=made)

    def _settings(self, generation: Generation) -> Any:
        sampling, settings = generation.sampling, self._library.GenerationConfig()
        settings.max_new_tokens = sampling.max_tokens - len(generation.begun_tokens)
        settings.apply_chat_template = False
        if self._ends:
            settings.eos_token_id, settings.stop_token_ids = self._ends[0], set(self._ends)
        if sampling.temperature > 0:
            settings.do_sample = True
            settings.temperature, settings.top_p = sampling.temperature, sampling.top_p
            settings.rng_seed = generation.seed
        return settings

    def _open(self, places: int) -> Any:
        scheduler = self._library.SchedulerConfig()
        scheduler.num_kv_blocks, scheduler.max_num_seqs = self._blocks, places
        scheduler.max_num_batched_tokens, scheduler.enable_prefix_caching = BATCH_TOKENS, True
        number, _ = _NUMBERS[self.precision]
        options = {
            "INFERENCE_PRECISION_HINT": number,
            "KV_CACHE_PRECISION": number,
            "INFERENCE_NUM_THREADS": self._threads,
            "ENABLE_CPU_PINNING": False,  # the supervisor pins the process
            "sampler_num_threads": self._threads,
        }
        return self._library.ContinuousBatchingPipeline(self._source, scheduler, "CPU", options)


def _import(operator: str) -> tuple[Any, Any]:
    try:
        library()
        import openvino_genai
        import transformers
    except ImportError as error:
        raise MissingExtra(
            f"operator {operator!r} needs the libraries of the extra {EXTRA!r}: {error}.",
            hint=f"Install it on every worker: pip install 'batchmill[{EXTRA}]'.",
        ) from error
    return openvino_genai, transformers


def _unloadable(operator: str, source: str, error: Exception) -> OperatorFailed:
    return OperatorFailed(
        f"operator {operator!r}: OpenVINO cannot load {source}: {error}.",
        hint=f"Expected a folder that `optimum-cli export openvino` wrote, with {GRAPH} and the tokenizer.",
        operator=operator,
        error_type=type(error).__name__,
        error=str(error),
        traceback="",
    )
