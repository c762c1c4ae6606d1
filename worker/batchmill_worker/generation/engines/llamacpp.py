"""llama.cpp in this process, by `xllamacpp`: GGUF files on the CPU.

1. The server of llama.cpp runs in threads of its own and decodes one token for each place in turn. Each generation in
   flight has a thread here that waits in native code, and is called back for each token.
2. Text becomes tokens by the server's own tokenizer and chat template, over a loopback port that the library opens in
   any case, under a key that only this process has. Text of a column never becomes a control token.
3. Places do not share what they have computed, so a row has to be sent to the place that has its prefix.

JSON is asked for by a grammar without free whitespace: small models spend their tokens on it otherwise.
"""

from __future__ import annotations

import hashlib
import http
import http.client
import json
import os
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from batchmill.errors import InvalidParams, OperatorFailed
from batchmill.operators.row_errors import ContextTooLong
from batchmill_worker.generation.base import Answer, Delta, EngineLimits
from batchmill_worker.generation.draft_encoder import DraftEncoder
from batchmill_worker.generation.engines.delta_queue import DeltaQueue
from batchmill_worker.generation.engines.gguf_header import read_gguf
from batchmill_worker.generation.engines.memory_needs import MemoryNeeds
from batchmill_worker.generation.fitting import fit
from batchmill_worker.generation.logprobs import read_logprobs
from batchmill_worker.generation.requirements import missing_extra
from batchmill_worker.generation.tools import find_format

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from batchmill_worker.generation.base import Draft, EngineStats, Generation, OnLong, Prompt, Sampling
    from batchmill_worker.generation.logprobs import TokenLogprob
    from batchmill_worker.models.model_memory import SlotMemory

NAME = "llamacpp"
HTTP_TIMEOUT_S = 120.0
MAX_CONTEXT = 4096
"""Tokens of a row where the job does not say: the memory of all places is allocated at once."""
BATCH_TOKENS = 512
"""Tokens of prompts that are computed in one call: between two calls the engine shows progress."""
_TOO_LONG = "exceed_context_size_error"


class LlamaCppError(Exception):
    """llama.cpp has refused a request."""


def default_threads() -> int:
    """Return the cores that this process is pinned to; else half of the machine's.

    The threads of llama.cpp wait for each other in a loop, so one too many on a busy machine stalls them all.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if cores < (os.cpu_count() or 1) else max(cores // 2, 1)


class LlamaCppEngine:
    """See `TextEngine`. context: tokens of a row; None: the model's, at most `MAX_CONTEXT`.

    Raises `MissingExtra` without the library, and `OperatorFailed` for a file that it cannot load.
    """

    name = NAME
    precision = "as stored"

    def __init__(
        self,
        operator: str,
        model: Path,
        *,
        context: int | None,
        places: int,
        threads: int | None,
        memory: SlotMemory | None = None,
    ) -> None:
        self._operator = operator
        wanted = _context(operator, model, context, places, memory)
        self.digest = _digest(model)
        key = secrets.token_hex(16)
        self._server = _load(operator, model, wanted, places, threads or default_threads(), key)
        self._tokenizer = _ServerTokenizer(self._server.listening_address, key)
        tool_format = find_format(self._tokenizer.fill_template)
        self.limits = EngineLimits(
            self._tokenizer.context(),
            places,
            keeps_prefixes=True,
            continues=True,
            has_tools=tool_format is not None,
            tool_format=tool_format,
            vocabulary=self._tokenizer.vocabulary(),
        )
        self._threads = ThreadPoolExecutor(places, thread_name_prefix="llamacpp")
        self._deltas = DeltaQueue()
        self._aborted: set[int] = set()
        self._running: set[int] = set()

    def render(self, draft: Draft, sampling: Sampling, on_long: OnLong) -> Prompt:
        """Make the prompt of a row. Raises `ContextTooLong`."""
        return fit(self._tokenizer, draft, (self.limits.context or 0) - sampling.max_tokens, on_long)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text that it has made."""
        return self._tokenizer.encode(text)

    def submit(self, generation: Generation, place: int) -> None:
        """Begin a generation."""
        self._running.add(generation.number)
        self._threads.submit(self._generate, generation, place)

    def step(self, wait_s: float) -> Sequence[Delta]:
        """Return what has happened; wait for it if nothing has."""
        shown = [delta for delta in self._deltas.take(wait_s) if delta.number in self._running]
        for delta in shown:
            if delta.is_end:
                self._running.discard(delta.number)
        self._deltas.count(shown)
        return shown

    def abort(self, number: int) -> None:
        """End a generation at its next token."""
        if number in self._running:
            self._running.discard(number)
            self._aborted.add(number)

    def stats(self) -> EngineStats:
        """Return what the engine is at. A place is free when its last token is out, also after an abort."""
        return self._deltas.stats(len(self._running), self.limits.places - len(self._aborted))

    def close(self) -> None:
        """Free the model, once the last thread is out of it."""
        self._aborted |= self._running
        self._threads.shutdown()
        self._tokenizer.close()
        del self._server

    def takes(self, sampling: Sampling) -> bool:
        """Whether an answer begins as its schema says; llama.cpp ignores a schema that it does not understand."""
        request = {**_request(sampling), "prompt": "a", "max_tokens": 1, "temperature": 0.0}
        reply = self._server.handle_completions(request)
        text = reply["choices"][0]["text"] if "choices" in reply else "?"
        return not text.strip() or text.strip()[0] in '{["-0123456789tfn'

    def _generate(self, generation: Generation, place: int) -> None:
        """Run one generation, in a thread of the pool."""
        number = generation.number
        pieces = [generation.begun_text]
        logprobs: list[TokenLogprob] = []
        finish, has_ended = "", False

        def on_chunk(chunk: dict[str, Any]) -> bool:
            nonlocal finish, has_ended
            if "error" in chunk:
                has_ended = True
                self._deltas.put(Delta(number, error=_error(chunk["error"])))
                return False
            choice = chunk["choices"][0] if chunk.get("choices") else {}
            finish = choice.get("finish_reason") or finish
            text = choice.get("text") or ""
            pieces.append(text)
            logprobs.extend(read_logprobs(choice.get("logprobs")))
            usage = chunk.get("usage")
            if finish and usage:
                has_ended = True
                answer = _answer("".join(pieces), finish, usage, logprobs, len(generation.begun_tokens))
                self._deltas.put(Delta(number, answer=answer))
            else:
                self._deltas.put(Delta(number, text, 1 if text else 0))
            return number in self._aborted

        request = {
            **_request(generation.sampling),
            "prompt": [*generation.prompt.tokens, *generation.begun_tokens],
            "max_tokens": generation.sampling.max_tokens - len(generation.begun_tokens),
            "seed": generation.seed,
            "id_slot": place,
            "stream": True,
            "return_progress": True,  # of the prompt: empty text for every BATCH_TOKENS
        }
        try:
            self._server.handle_completions(request, on_chunk)
            if not has_ended and number not in self._aborted:
                self._deltas.put(Delta(number, error=LlamaCppError("it has ended without an answer")))
        except BaseException as error:  # noqa: BLE001  # whatever it is, the row must not be waited for
            self._deltas.put(Delta(number, error=LlamaCppError(f"{type(error).__name__}: {error}")))
        finally:
            self._aborted.discard(number)


def _request(sampling: Sampling) -> dict[str, Any]:
    request: dict[str, Any] = {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "cache_prompt": True,
    }
    if sampling.logprobs is not None:
        request["logprobs"] = sampling.logprobs
    if sampling.stop:
        request["stop"] = list(sampling.stop)
    if sampling.schema:
        compact = json.loads(sampling.schema) | {"x-guidance": {"whitespace_flexible": False}}
        request["grammar"] = f"%llguidance {{}}\nstart: %json {json.dumps(compact)}"
    return request


def _answer(text: str, finish: str, usage: dict[str, Any], logprobs: Sequence[TokenLogprob], begun: int) -> Answer:
    """Make an answer. begun: how many of its tokens were given with the prompt."""
    prompt = usage["prompt_tokens"] - begun
    cached = min((usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0), prompt)
    return Answer(text, finish, prompt, cached, usage["completion_tokens"] + begun, tuple(logprobs))


def _error(about: dict[str, Any]) -> Exception:
    message = str(about.get("message", about))
    return ContextTooLong(message) if about.get("type") == _TOO_LONG else LlamaCppError(message)


def _context(operator: str, model: Path, context: int | None, places: int, memory: SlotMemory | None) -> int:
    """Return the tokens of a row. The memory for them is allocated at once, so they are checked before."""
    try:
        header, size = read_gguf(model), model.stat().st_size
    except (OSError, ValueError) as error:
        raise _unloadable(operator, model, error) from error
    trained = header.context or MAX_CONTEXT
    if context is not None and trained < context:
        raise InvalidParams(
            f"operator {operator!r}: the model {model.name} has a context of {trained} tokens, expected {context}.",
            hint="Set 'context' to at most that.",
            operator=operator,
            parameter="context",
        )
    wanted = context or min(trained, MAX_CONTEXT)
    needs = MemoryNeeds(size, header.token_bytes, wanted, places, are_weights_shared=True)
    needs.refuse_if_too_large(operator, model.name, memory)
    return wanted


def _unloadable(operator: str, model: Path, error: Exception) -> OperatorFailed:
    return OperatorFailed(
        f"operator {operator!r}: llama.cpp cannot load {model}: {error}.",
        hint="Expected a GGUF file of a model that this version of llama.cpp knows.",
        operator=operator,
        error_type=type(error).__name__,
        error=str(error),
        traceback="",
    )


def _load(operator: str, model: Path, context: int, places: int, threads: int, key: str) -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise missing_extra(operator, error) from error
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_parallel, params.n_ctx = places, context * places
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.port, params.api_keys, params.n_threads_http = 0, [key], 2
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.verbosity, params.warmup, params.fit_params = -1, False, False
    params.cache_ram_mib = 0  # rows are sent to the place that has their prefix, so no copy of it is needed
    params.slot_prompt_similarity = 0.0
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise _unloadable(operator, model, error) from error
    # One token: a server that is dropped before its loop has begun misses that it is to end, and waits forever.
    server.handle_completions({"prompt": "a", "max_tokens": 1})
    return server


def _digest(model: Path) -> str:
    with model.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


class _ServerTokenizer(DraftEncoder):
    """The tokenizer and the chat template of a server. Thread-safe: each thread has a connection of its own."""

    def __init__(self, address: str, key: str) -> None:
        split = urlsplit(address)
        self._host, self._port = split.hostname or "127.0.0.1", split.port
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._local = threading.local()
        self._open: set[http.client.HTTPConnection] = set()

    def close(self) -> None:
        """Close the connections; no thread uses them any more."""
        for connection in list(self._open):
            connection.close()

    def context(self) -> int:
        """Return the tokens that each place has room for."""
        return int(self._call("GET", "/props")["default_generation_settings"]["n_ctx"])

    def vocabulary(self) -> int:
        """Return how many tokens there are."""
        return int(self._call("GET", "/v1/models")["data"][0]["meta"]["n_vocab"])

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return str(self._call("POST", "/detokenize", {"tokens": list(tokens)})["content"]) if tokens else ""

    def fill_template(self, draft: Draft, contents: Sequence[str]) -> str:
        """Return the model's chat template, with these contents in place of the messages', and with the tools."""
        messages = [message.value(content) for message, content in zip(draft.messages, contents, strict=True)]
        tools = {"tools": json.loads(draft.tools.functions)} if draft.tools else {}
        return str(self._call("POST", "/apply-template", {"messages": messages, **tools})["prompt"])

    def encode_text(self, text: str, *, special: bool, begin: bool) -> tuple[int, ...]:
        """Return the tokens of a text."""
        body = {"content": text, "add_special": begin, "parse_special": special}
        return tuple(self._call("POST", "/tokenize", body)["tokens"])

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        connection: http.client.HTTPConnection | None = getattr(self._local, "connection", None)
        for is_last in (connection is None, True):
            if connection is None:
                connection = http.client.HTTPConnection(self._host, self._port, timeout=HTTP_TIMEOUT_S)
                self._open.add(connection)
            try:
                connection.request(method, path, None if body is None else json.dumps(body), self._headers)
                response = connection.getresponse()
                status, data = response.status, response.read()
                break
            except (http.client.HTTPException, OSError):  # an idle connection that the server has closed
                connection.close()
                self._open.discard(connection)
                connection = None
                if is_last:
                    raise
        self._local.connection = connection
        if status != http.HTTPStatus.OK:
            raise LlamaCppError(f"{path} answered {status}: {data[:200].decode(errors='replace')}")
        return json.loads(data)
