"""transformers in this process: Hugging Face folders, on the CPU and on CUDA, with continuous batching.

1. A thread of the library computes the next token of all rows in flight in one pass. A row enters at the next pass; a
   prompt of many tokens is computed in pieces beside the tokens of the others.
2. The cache has room for every row at its longest, so that none is put off. Blocks that rows share are computed once.
3. Numbers are bfloat16 on GPUs that compute in it, else float16, and float32 on the CPU.

It knows no schema, no stop text and no seed of a row: a job that asks for them is refused, as is one that requires a
call of a function, which takes a schema.
"""

from __future__ import annotations

import importlib
import math
from typing import TYPE_CHECKING, Any

from batchmill.errors import InvalidParams, MissingExtra, OperatorFailed
from batchmill.operators.contract import RowError
from batchmill_worker.generation.base import Answer, Delta, EngineLimits, EngineStats
from batchmill_worker.generation.engines.hf_folder import context_of, token_bytes
from batchmill_worker.generation.engines.hf_tokenizer import HfTokenizer
from batchmill_worker.generation.engines.memory_needs import MemoryNeeds
from batchmill_worker.generation.fitting import fit
from batchmill_worker.models.model_source import content_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill_worker.generation.base import Draft, Generation, OnLong, Prompt, Sampling
    from batchmill_worker.generation.engines.hf_tokenizer import TokenStream
    from batchmill_worker.models.model_memory import SlotMemory

NAME = "transformers"
EXTRA = "transformers"
PAGE_TOKENS = 32
"""Rows share a prefix in blocks of that many tokens."""
BATCH_TOKENS = {"cpu": 512, "cuda": 2048}
"""Tokens of one pass: between two passes the engine shows progress, and a row may enter."""
GREEDY_TOP_P = 1e-9
"""Leaves the likeliest token only."""


class EngineDied(Exception):
    """The thread that computes has ended."""


class TransformersEngine:
    """See `TextEngine`. source: a folder or a hub id. samples: whether any row may have a temperature above 0.

    Raises `MissingExtra` without the libraries, `InvalidParams` for a model that does not fit into `memory` or
    `context`, and `OperatorFailed` for one that cannot be loaded.
    """

    name = NAME

    def __init__(
        self,
        operator: str,
        source: str,
        device: str,
        *,
        context: int | None,
        places: int,
        samples: bool,
        memory: SlotMemory | None,
    ) -> None:
        self._operator = operator
        self._samples = samples
        library = _import(operator)
        from batchmill_worker.runtime.torch_runtime import TorchRuntime

        runtime = TorchRuntime(device)
        self.precision = str(runtime.dtype).removeprefix("torch.")
        try:
            config = library.AutoConfig.from_pretrained(source, trust_remote_code=False)
            self._tokenizer = HfTokenizer(operator, source, _tokenizer(library, source))
            tokens = context_of(operator, source, config, context)
            needs = MemoryNeeds(*_sizes(library, config, runtime.dtype), tokens, places)
            needs.refuse_if_too_large(operator, source, memory)
            self._model = library.AutoModelForCausalLM.from_pretrained(
                source, dtype=runtime.dtype, attn_implementation="sdpa", trust_remote_code=False
            )
        except (InvalidParams, MemoryError):
            raise
        except Exception as error:
            raise _unloadable(operator, source, error) from error
        self._model = self._model.to(runtime.device).eval()
        self.digest = content_digest(source)
        self.limits = EngineLimits(
            tokens,
            places,
            has_schemas=False,
            has_stops=False,
            has_seeds=False,
            has_logprobs=False,
            is_exact=self.precision == "float32",
            continues=True,
            has_tools=self._tokenizer.tool_format is not None,
            tool_format=self._tokenizer.tool_format,
            vocabulary=int(config.get_text_config().vocab_size),
        )
        self._ends = _ends(self._model, self._tokenizer.end)
        self._running: dict[str, _Running] = {}
        self._cached: dict[str, int] = {}
        self._sums = (0, 0, 0)
        self._manager = self._start()

    def render(self, draft: Draft, sampling: Sampling, on_long: OnLong) -> Prompt:
        """Make the prompt of a row. Raises `ContextTooLong`, and `RowError` for settings of its own that it lacks."""
        if sampling.schema or sampling.stop:
            raise RowError(f"the engine {NAME!r} knows no schemas and no stop texts")
        if sampling.temperature > 0 and not self._samples:
            raise RowError(f"the engine {NAME!r} samples no row where the operator's 'temperature' is 0")
        return fit(self._tokenizer, draft, (self.limits.context or 0) - sampling.max_tokens, on_long)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text that it has made."""
        return self._tokenizer.encode(text)

    def takes(self, sampling: Sampling) -> bool:
        """Return whether there is no schema: it knows none."""
        return not sampling.schema

    def submit(self, generation: Generation, place: int) -> None:  # noqa: ARG002  # rows share one cache
        """Begin a generation."""
        sampling, name = generation.sampling, str(generation.number)
        self._running[name] = _Running(generation, self._tokenizer.stream())
        begun = generation.begun_tokens
        chosen: dict[str, float] = {}
        if self._samples:
            chosen = {"temperature": float(sampling.temperature), "top_p": float(sampling.top_p)}
            if sampling.temperature == 0:
                chosen = {"temperature": 1.0, "top_p": GREEDY_TOP_P}
        self._manager.add_request(
            [*generation.prompt.tokens, *begun],
            request_id=name,
            max_new_tokens=sampling.max_tokens - len(begun),
            streaming=True,
            eos_token_id=self._ends,
            **chosen,
        )

    def step(self, wait_s: float) -> Sequence[Delta]:
        """Return what has happened; wait for it if nothing has. Raises `EngineDied`."""
        found: list[Delta] = []
        output = self._manager.get_result(timeout=wait_s)
        while output is not None:
            running = self._running.get(output.request_id)
            if running is not None:
                if output.error is not None:
                    self._restart(output.error)
                found.append(self._delta(running, output))
            output = self._manager.get_result(timeout=0)
        if not found and self._running and not self._manager.is_running():
            self._restart("its thread has ended")
        return found

    def abort(self, number: int) -> None:
        """End a generation before its next token."""
        if self._running.pop(str(number), None) is not None:
            self._cached.pop(str(number), None)
            self._manager.cancel_request(str(number))

    def stats(self) -> EngineStats:
        """Return what the engine is at."""
        return EngineStats(len(self._running), self.limits.places, *self._sums)

    def close(self) -> None:
        """Free the model, once its thread has ended."""
        for name in list(self._running):
            self.abort(int(name))
        self._manager.stop(block=True)
        self._manager.destroy()
        del self._manager, self._model

    def _delta(self, running: _Running, output: Any) -> Delta:
        number = running.generation.number
        tokens = output.generated_tokens
        text = running.stream.read(tokens[running.read :])
        running.unshown += len(tokens) - running.read
        running.read = len(tokens)
        if not output.is_finished():
            made, running.unshown = (running.unshown, 0) if text else (0, running.unshown)
            return Delta(number, text, made)
        del self._running[output.request_id]
        finish = "stop" if tokens and tokens[-1] in self._ends else "length"
        prompt = len(running.generation.prompt.tokens)
        cached = min(self._cached.pop(output.request_id, 0), prompt)
        tokens = [*running.generation.begun_tokens, *tokens]
        answer = Answer(self._tokenizer.decode(tokens), finish, prompt, cached, len(tokens))
        before = self._sums
        self._sums = (before[0] + prompt, before[1] + cached, before[2] + len(tokens))
        return Delta(number, text, answer=answer)

    def _start(self) -> Any:
        from transformers import GenerationConfig

        tokens = (self.limits.context or 0) + PAGE_TOKENS
        sampling = {"do_sample": True, "temperature": 0.5, "top_p": 0.5} if self._samples else {"do_sample": False}
        general = GenerationConfig(
            **sampling, top_k=0, eos_token_id=self._ends, pad_token_id=self._ends[0] if self._ends else 0
        )
        batching = _batching_config(
            page_size=PAGE_TOKENS,
            num_blocks=self.limits.places * math.ceil(tokens / PAGE_TOKENS),
            max_batch_tokens=BATCH_TOKENS.get(self._model.device.type, BATCH_TOKENS["cpu"]),
            max_requests_per_batch=self.limits.places,
            per_request_processors=self._samples,
            auto_switch_to_flash=False,
        )
        try:
            manager = self._model.init_continuous_batching(general, batching)
            manager.warmup()  # allocates the cache
        except MemoryError:
            raise
        except Exception as error:
            raise _unloadable(self._operator, self._model.name_or_path, error) from error
        self._note_shared_prefixes(manager.batch_processor.cache)
        manager.start()
        return manager

    def _note_shared_prefixes(self, cache: Any) -> None:
        """Note of each row how many tokens the cache had: the library does not return it."""
        search = cache.search_prefix_match

        def noting(name: str, tokens: list[int]) -> int:
            found = int(search(name, tokens))
            self._cached.setdefault(name, found)
            return found

        cache.search_prefix_match = noting

    def _restart(self, why: str) -> None:
        """Raise `EngineDied`, with the engine ready for other rows."""
        self._running.clear()
        self._cached.clear()
        self._manager.stop(block=True)
        self._manager.destroy()
        self._manager = self._start()
        raise EngineDied(f"{NAME}: {why}")


class _Running:
    """A row in flight. read: how many of its tokens were read. unshown: how many since there was text."""

    def __init__(self, generation: Generation, stream: TokenStream) -> None:
        self.generation = generation
        self.stream = stream
        self.read = 0
        self.unshown = 0
        stream.read(generation.begun_tokens)


def _import(operator: str) -> Any:
    try:
        library = importlib.import_module("transformers")
        importlib.import_module("torch")
        importlib.import_module("transformers.generation.continuous_batching")
        from transformers.utils import logging
    except ImportError as error:
        raise MissingExtra(
            f"operator {operator!r} needs the libraries of the extra {EXTRA!r}: {error}.",
            hint=f"Install it on every worker: pip install 'batchmill[{EXTRA}]'.",
        ) from error
    logging.disable_progress_bar()
    return library


def _batching_config(**settings: Any) -> Any:
    """Make the configuration of batches; version 5.17 has another name for pages, and no choice of attention."""
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    known = ContinuousBatchingConfig.__dataclass_fields__
    if "page_size" not in known:
        settings["block_size"] = settings.pop("page_size")
    return ContinuousBatchingConfig(**{name: value for name, value in settings.items() if name in known})


def _tokenizer(library: Any, source: str) -> Any:
    return library.AutoTokenizer.from_pretrained(source, trust_remote_code=False)


def _sizes(library: Any, config: Any, dtype: Any) -> tuple[int, int]:
    """Return the bytes of the weights, and of the cache for each token, without loading anything."""
    import torch

    with torch.device("meta"):
        model = library.AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    model.tie_weights()
    weights = sum(tensor.numel() * tensor.element_size() for tensor in [*model.parameters(), *model.buffers()])
    return weights, token_bytes(config, dtype.itemsize)


def _ends(model: Any, of_tokenizer: int | None) -> list[int]:
    """Return the tokens that end an answer."""
    own = model.generation_config.eos_token_id
    listed = own if isinstance(own, list) else [own]
    return sorted({token for token in (*listed, of_tokenizer) if token is not None})


def _unloadable(operator: str, source: str, error: Exception) -> OperatorFailed:
    return OperatorFailed(
        f"operator {operator!r}: transformers cannot load {source}: {error}.",
        hint="Expected a complete folder of a language model, without code of its own.",
        operator=operator,
        error_type=type(error).__name__,
        error=str(error),
        traceback="",
    )
