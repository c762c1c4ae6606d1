"""A stand-in for vLLM: the names, arguments and behaviour that its documentation gives, without a model.

A token follows from all tokens before it, the adapter, and with a temperature the seed. What is not an argument of the
library, in version 0.33, is none here.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from dataclasses import dataclass, field
from enum import Enum
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import pytest

BLOCK_TOKENS = 16


class RequestOutputKind(Enum):
    CUMULATIVE = 0
    DELTA = 1
    FINAL_ONLY = 2


@dataclass
class StructuredOutputsParams:
    json: str | dict[str, Any] | None = None
    regex: str | None = None


@dataclass
class StructuredOutputsConfig:
    backend: str = "auto"
    disable_any_whitespace: bool = False

    def __post_init__(self) -> None:
        if self.disable_any_whitespace and self.backend not in ("xgrammar", "guidance"):
            raise ValueError("disable_any_whitespace is only supported for xgrammar and guidance backends.")


@dataclass
class SamplingParams:
    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: list[str] | None = None
    max_tokens: int | None = 16
    logprobs: int | None = None
    detokenize: bool = True
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    structured_outputs: StructuredOutputsParams | None = None


@dataclass
class AsyncEngineArgs:
    model: str
    max_model_len: int | None = None
    max_num_seqs: int | None = None
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    distributed_executor_backend: str | None = None
    gpu_memory_utilization: float = 0.9
    enable_prefix_caching: bool | None = None
    disable_log_stats: bool = False
    seed: int = 0
    enable_lora: bool = False
    max_loras: int = 1
    max_lora_rank: int = 16
    structured_outputs_config: StructuredOutputsConfig = field(default_factory=StructuredOutputsConfig)


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


@dataclass
class Logprob:
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


class EngineDeadError(Exception):
    pass


@dataclass
class Seen:
    """What a test may look at, and set.

    is_dead: the library's processes are. tokens: of an answer with a schema. words: the tokens that others are of.
    """

    engines: list[AsyncLLM] = field(default_factory=list)
    requests: list[tuple[list[int], SamplingParams, LoRARequest | None]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    is_dead: bool = False
    tokens: list[int] = field(default_factory=list)
    words: Sequence[int] = range(20, 200)


class AsyncLLM:
    seen: Seen

    def __init__(self, arguments: AsyncEngineArgs) -> None:
        self.arguments = arguments
        self.model_config = SimpleNamespace(dtype="torch.float32")
        self.is_shut = False
        self._blocks: set[tuple[int, ...]] = set()
        asyncio.get_running_loop()  # it binds itself to the loop that it is made in
        self.seen.engines.append(self)

    @classmethod
    def from_engine_args(cls, engine_args: AsyncEngineArgs) -> AsyncLLM:
        if engine_args.model.endswith("unknown"):
            raise ValueError("model type unknown")
        return cls(engine_args)

    async def generate(
        self,
        prompt: dict[str, Any],
        sampling_params: SamplingParams,
        request_id: str,
        *,
        lora_request: LoRARequest | None = None,
    ) -> AsyncIterator[Any]:
        tokens, params = list(prompt["prompt_token_ids"]), sampling_params
        self._check(params)
        self.seen.requests.append((list(tokens), params, lora_request))
        cached = self._cached(tokens)
        limit = params.max_tokens or 16
        try:
            for place in range(limit):
                await asyncio.sleep(0)
                if self.seen.is_dead:
                    raise EngineDeadError("EngineCore encountered an issue")
                token = self._next(tokens, params, lora_request, place)
                tokens.append(token)
                is_last = place == limit - 1 or (params.structured_outputs and place == len(self.seen.tokens) - 1)
                yield _output(request_id, token, params.logprobs, cached, self._reason(place, limit, bool(is_last)))
                if is_last:
                    return
        except (asyncio.CancelledError, GeneratorExit):
            self.seen.aborted.append(request_id)
            raise

    def shutdown(self, timeout: float | None = None) -> None:  # noqa: ARG002  # the library's name
        self.is_shut = True

    def _check(self, params: SamplingParams) -> None:
        if params.stop and not params.detokenize:
            raise ValueError("stop strings are only supported when detokenize is True")
        schema = params.structured_outputs
        if schema is not None and "unknown" in str(schema.json):
            raise ValueError("Failed to transform json schema into a grammar")

    def _next(self, tokens: list[int], params: SamplingParams, adapter: LoRARequest | None, place: int) -> int:
        if params.structured_outputs:
            return self.seen.tokens[place]
        about = (tokens, adapter and adapter.lora_name, params.temperature and params.seed)
        number = int.from_bytes(hashlib.blake2b(repr(about).encode(), digest_size=4).digest())
        return self.seen.words[number % len(self.seen.words)]

    @staticmethod
    def _reason(place: int, limit: int, is_last: bool) -> str | None:
        if not is_last:
            return None
        return "length" if place == limit - 1 else "stop"

    def _cached(self, tokens: list[int]) -> int:
        ends = range(BLOCK_TOKENS, len(tokens) + 1, BLOCK_TOKENS)
        known = [end for end in ends if tuple(tokens[:end]) in self._blocks]
        self._blocks.update(tuple(tokens[:end]) for end in ends)
        return max(known, default=0)


def _output(request_id: str, token: int, top: int | None, cached: int, reason: str | None) -> Any:
    likely = {token: Logprob(-0.5, 2), token + 1: Logprob(-0.25, 1), token + 2: Logprob(-2.0, 3)}
    made = SimpleNamespace(
        index=0, text="", token_ids=[token], logprobs=None if top is None else [likely], finish_reason=reason
    )
    return SimpleNamespace(request_id=request_id, outputs=[made], finished=reason is not None, num_cached_tokens=cached)


def install(patch: pytest.MonkeyPatch) -> Seen:
    """Make it what `import vllm` finds."""
    seen = Seen()
    engine = type("AsyncLLM", (AsyncLLM,), {"seen": seen})
    names: dict[str, dict[str, Any]] = {
        "vllm": {},
        "vllm.config": {"StructuredOutputsConfig": StructuredOutputsConfig},
        "vllm.engine": {},
        "vllm.engine.arg_utils": {"AsyncEngineArgs": AsyncEngineArgs},
        "vllm.lora": {},
        "vllm.lora.request": {"LoRARequest": LoRARequest},
        "vllm.sampling_params": {
            "SamplingParams": SamplingParams,
            "RequestOutputKind": RequestOutputKind,
            "StructuredOutputsParams": StructuredOutputsParams,
        },
        "vllm.v1": {},
        "vllm.v1.engine": {},
        "vllm.v1.engine.async_llm": {"AsyncLLM": engine},
        "vllm.v1.engine.exceptions": {"EngineDeadError": EngineDeadError},
    }
    for name, values in names.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(values)
        patch.setitem(sys.modules, name, module)
    return seen
