"""vLLM, on CUDA: Hugging Face folders, divided over the GPUs of a worker, with continuous batching and LoRA adapters.

1. The library computes in processes of its own, one for each GPU, which end with this one. Here an event loop, in a
   thread, has a task for each row in flight, which reads its tokens as they come.
2. The GPUs of the worker hold the model together: its matrices are divided over those of a pipeline stage, and its
   layers over the stages.
3. Memory that the weights leave is the cache. Rows share what they have in common of it; if it is full, the library
   puts rows off and computes them again.
4. Rows are given as tokens, and text is made of tokens here, so that it is the same as with the other engines.

When its processes die, all rows in flight fail, and the next ones load the model again.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import threading
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from batchmill.errors import InvalidParams, MissingExtra, OperatorFailed
from batchmill_worker.generation.base import Delta, EngineLimits
from batchmill_worker.generation.engines.delta_queue import DeltaQueue
from batchmill_worker.generation.engines.hf_folder import context_of, file_bytes, token_bytes
from batchmill_worker.generation.engines.hf_tokenizer import HfTokenizer
from batchmill_worker.generation.engines.memory_needs import MemoryNeeds
from batchmill_worker.generation.engines.token_answer import TokenAnswer
from batchmill_worker.generation.fitting import fit
from batchmill_worker.generation.logprobs import TokenLogprob
from batchmill_worker.models.model_source import content_digest

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence
    from concurrent.futures import Future

    from batchmill_worker.generation.base import Draft, EngineStats, Generation, OnLong, Prompt, Sampling
    from batchmill_worker.generation.engines.lora_adapters import LoraAdapter
    from batchmill_worker.models.model_memory import SlotMemory

NAME = "vllm"
DEVICE_SHARE = 0.9
"""Of the memory of a GPU, for weights, cache and what a pass needs; the rest is for the drivers."""
GRAMMARS = "guidance"
"""What holds answers to a schema; llama.cpp has the same library."""
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""The ranks of adapters that the library can be set to."""
ENVIRONMENT = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork of this process would have its threads' locks
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CONFIGURE_LOGGING": "0",
}
"""What its processes find in their environment, unless the user has set it."""


class VllmError(Exception):
    """vLLM has failed."""


@dataclass(frozen=True, slots=True)
class GpuGroup:
    """The GPUs of a worker. share: the part of each that this process may use. stages: of the pipeline."""

    devices: int = 1
    share: float = 1.0
    stages: int = 1

    def check(self, operator: str) -> None:
        """Raise `InvalidParams` if the GPUs cannot be divided among the stages."""
        if self.devices % self.stages:
            raise InvalidParams(
                f"operator {operator!r}: 'stages' is {self.stages}, and the worker has {self.devices} GPUs.",
                hint="Expected a number that divides the worker's GPUs; they are grouped by --devices cuda:0+1.",
                operator=operator,
                parameter="stages",
            )


class VllmEngine:
    """See `TextEngine`. source: a folder or a hub id.

    Raises `MissingExtra` without the library, `InvalidParams` for a model that does not fit into `memory`, `context` or
    the GPUs, and `OperatorFailed` for one that cannot be loaded.
    """

    name = NAME

    def __init__(
        self,
        operator: str,
        source: str,
        *,
        context: int | None,
        places: int,
        gpus: GpuGroup,
        adapters: Sequence[LoraAdapter] = (),
        memory: SlotMemory | None = None,
    ) -> None:
        gpus.check(operator)
        self._library = _import(operator)
        try:
            transformers = importlib.import_module("transformers")
            config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
            tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=False)
            self._tokenizer = HfTokenizer(operator, source, tokenizer)
            tokens = context_of(operator, source, config, context)
            needs = MemoryNeeds(file_bytes(source, "*.safetensors"), token_bytes(config, 2), tokens, 1)
            needs.refuse_if_too_large(operator, source, memory)
        except (InvalidParams, MemoryError):
            raise
        except Exception as error:
            raise _unloadable(operator, source, error) from error
        self._adapters = {one.name: (number, one) for number, one in enumerate(adapters, 1)}
        self._arguments = _arguments(source, tokens, places, gpus, adapters)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=NAME, daemon=True)
        self._thread.start()
        self._deltas = DeltaQueue()
        self._running: dict[int, Future[None]] = {}
        self._waiting: list[Generation] = []
        self._failure: BaseException | None = None
        try:
            self._engine: Any = self._call(self._open())
        except Exception as error:
            self._end_loop()
            raise _unloadable(operator, source, error) from error
        self.precision = str(self._engine.model_config.dtype).removeprefix("torch.")
        self.digest = " ".join([content_digest(source), *(one.digest for one in adapters)])
        self.limits = EngineLimits(
            tokens,
            places,
            shares_prefixes=True,
            is_exact=self.precision == "float32",
            continues=True,
            has_tools=self._tokenizer.tool_format is not None,
            tool_format=self._tokenizer.tool_format,
            vocabulary=int(config.get_text_config().vocab_size),
            adapters=frozenset(self._adapters),
            outside_bytes=int(DEVICE_SHARE * memory.own) if memory is not None else 0,
        )

    def render(self, draft: Draft, sampling: Sampling, on_long: OnLong) -> Prompt:
        """Make the prompt of a row. Raises `ContextTooLong`."""
        return fit(self._tokenizer, draft, (self.limits.context or 0) - sampling.max_tokens, on_long)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text that it has made."""
        return self._tokenizer.encode(text)

    def takes(self, sampling: Sampling) -> bool:
        """Return whether an answer can begin as its schema says."""
        return bool(self._call(self._begins(sampling)))

    def submit(self, generation: Generation, place: int) -> None:  # noqa: ARG002  # rows share one cache
        """Begin a generation, at the next step."""
        self._waiting.append(generation)

    def step(self, wait_s: float) -> Sequence[Delta]:
        """Return what has happened; wait for it if nothing has. Raises `VllmError` if its processes have died."""
        if self._engine is None:
            self._engine = self._call(self._open())
        for generation in self._waiting:
            task = asyncio.run_coroutine_threadsafe(self._generate(generation), self._loop)
            self._running[generation.number] = task
        self._waiting.clear()
        shown = [delta for delta in self._deltas.take(wait_s) if delta.number in self._running]
        if self._failure is not None:
            shown = [delta for delta in shown if delta.is_end and delta.error is None]
            if not shown:  # answers are handed over first
                self._fail_all(self._failure)
        for delta in shown:
            if delta.is_end:
                del self._running[delta.number]
        self._deltas.count(shown)
        return shown

    def abort(self, number: int) -> None:
        """End a generation."""
        self._waiting = [one for one in self._waiting if one.number != number]
        task = self._running.pop(number, None)
        if task is not None:
            task.cancel()

    def stats(self) -> EngineStats:
        """Return what the engine is at."""
        return self._deltas.stats(len(self._running) + len(self._waiting), self.limits.places)

    def close(self) -> None:
        """End the library's processes."""
        for number in list(self._running):
            self.abort(number)
        if self._engine is not None:
            self._call(self._shut())
        self._end_loop()

    async def _open(self) -> Any:
        """Load the model. In the loop, to which the library binds itself."""
        library = self._library
        # Whether JSON may have free whitespace is a setting of the engine: the library ignores it in a request.
        schemas = library.schemas(backend=GRAMMARS, disable_any_whitespace=True)
        return library.engine.from_engine_args(library.arguments(**self._arguments, structured_outputs_config=schemas))

    async def _shut(self) -> None:
        engine, self._engine = self._engine, None
        engine.shutdown()

    async def _generate(self, generation: Generation) -> None:
        """Run one generation, as a task of the loop."""
        number, engine = generation.number, self._engine
        try:
            await self._read(generation)
        except asyncio.CancelledError:
            raise
        except self._library.death as error:
            if engine is self._engine:  # else it is known already
                self._failure = error
            self._deltas.put(Delta(number, error=VllmError(str(error))))
        except Exception as error:  # noqa: BLE001  # whatever it is, the row must not be waited for
            self._deltas.put(Delta(number, error=VllmError(f"{type(error).__name__}: {error}")))

    async def _read(self, generation: Generation) -> None:
        answer, cached = TokenAnswer(generation, self._tokenizer), 0
        logprobs: list[TokenLogprob] = []
        prompt = {"prompt_token_ids": [*generation.prompt.tokens, *generation.begun_tokens]}
        outputs = self._engine.generate(
            prompt,
            self._params(generation.sampling, generation.seed, len(generation.begun_tokens)),
            request_id=str(generation.number),
            lora_request=self._adapter(generation.sampling.adapter),
        )
        finished = False
        async with aclosing(outputs):  # one that is not read to its end is aborted
            async for output in outputs:
                made = output.outputs[0]
                cached = max(cached, output.num_cached_tokens or 0)
                logprobs += self._logprobs(made.token_ids, made.logprobs, generation.sampling.logprobs)
                delta, finished = answer.more(made.token_ids), output.finished
                if answer.is_stopped:
                    break
                if finished and made.finish_reason not in ("stop", "length"):
                    raise VllmError(f"the row was ended with the reason {made.finish_reason!r}")
                if not finished:
                    self._deltas.put(delta)
        if not (finished or answer.is_stopped):
            raise VllmError("it has ended without an answer")
        end = answer.end(made.finish_reason or "stop", cached, logprobs)
        self._deltas.put(Delta(delta.number, delta.text, answer=end))

    async def _begins(self, sampling: Sampling) -> bool:
        params = self._params(sampling, 0, sampling.max_tokens - 1)
        try:
            async for _ in self._engine.generate({"prompt_token_ids": [1]}, params, request_id="schema"):
                pass
        except self._library.death:
            raise
        except Exception:  # noqa: BLE001  # what the library has for schemas decides about its errors
            return False
        return True

    def _params(self, sampling: Sampling, seed: int, begun: int) -> Any:
        library, settings = self._library, dict[str, Any]()
        if sampling.temperature > 0:
            settings["seed"] = seed
        if sampling.logprobs is not None:
            settings["logprobs"] = sampling.logprobs
        if sampling.schema:
            settings["structured_outputs"] = library.schema(json=sampling.schema)
        return library.params(
            max_tokens=sampling.max_tokens - begun,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            detokenize=False,
            output_kind=library.kinds.DELTA,
            **settings,
        )

    def _adapter(self, name: str) -> Any:
        if not name:
            return None
        number, adapter = self._adapters[name]
        return self._library.adapter(lora_name=name, lora_int_id=number, lora_path=adapter.folder)

    def _logprobs(self, tokens: Sequence[int], found: Any, top: int | None) -> list[TokenLogprob]:
        """Read the likelihoods of tokens, each of which has an entry by the number of each likely token."""
        if top is None or found is None:
            return []
        made: list[TokenLogprob] = []
        for token, likely in zip(tokens, found, strict=True):
            ranked = sorted(likely.items(), key=lambda one: one[1].rank or 0)[:top]
            others = tuple((self._tokenizer.decode((number,)), float(one.logprob)) for number, one in ranked)
            made.append(TokenLogprob(self._tokenizer.decode((token,)), float(likely[token].logprob), others))
        return made

    def _fail_all(self, cause: BaseException) -> NoReturn:
        """Raise `VllmError`, with the engine ready to load the model again."""
        self._running.clear()
        self._waiting.clear()
        self._failure = None
        self._call(self._shut())
        raise VllmError(f"its processes have died: {cause}") from cause

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@dataclass(frozen=True, slots=True)
class _Library:
    """What is used of vLLM."""

    engine: Any
    arguments: Any
    params: Any
    kinds: Any
    schema: Any
    schemas: Any
    adapter: Any
    death: type[Exception]


def is_installed() -> bool:
    """Whether vLLM can be imported, as far as that is known without importing it."""
    return importlib.util.find_spec("vllm") is not None


def _import(operator: str) -> _Library:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        sampling = importlib.import_module("vllm.sampling_params")
        return _Library(
            importlib.import_module("vllm.v1.engine.async_llm").AsyncLLM,
            importlib.import_module("vllm.engine.arg_utils").AsyncEngineArgs,
            sampling.SamplingParams,
            sampling.RequestOutputKind,
            sampling.StructuredOutputsParams,
            importlib.import_module("vllm.config").StructuredOutputsConfig,
            importlib.import_module("vllm.lora.request").LoRARequest,
            importlib.import_module("vllm.v1.engine.exceptions").EngineDeadError,
        )
    except ImportError as error:
        raise MissingExtra(
            f"operator {operator!r} needs vLLM: {error}.",
            hint="Use a worker of the image worker-vllm, or the engine 'transformers'.",
        ) from error


def _arguments(
    source: str, context: int, places: int, gpus: GpuGroup, adapters: Sequence[LoraAdapter]
) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": source,
        "max_model_len": context,
        "max_num_seqs": places,
        "tensor_parallel_size": gpus.devices // gpus.stages,
        "pipeline_parallel_size": gpus.stages,
        "gpu_memory_utilization": round(DEVICE_SHARE * gpus.share, 3),
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "seed": 0,
    }
    if gpus.devices > 1:
        arguments["distributed_executor_backend"] = "mp"
    if adapters:
        rank = max(one.rank for one in adapters)
        arguments |= {"enable_lora": True, "max_loras": len(adapters)}
        arguments["max_lora_rank"] = next((size for size in RANKS if size >= rank), rank)
    return arguments


def _unloadable(operator: str, source: str, error: Exception) -> OperatorFailed:
    return OperatorFailed(
        f"operator {operator!r}: vLLM cannot load {source}: {error}.",
        hint="Expected a complete folder of a language model that vLLM knows, and GPUs with room for it.",
        operator=operator,
        error_type=type(error).__name__,
        error=str(error),
        traceback="",
    )
