"""A service with an OpenAI-compatible API: what the worker's settings name as an endpoint.

1. Each generation in flight is a task of an event loop, which has a thread of its own.
2. What may succeed later, an overload or a lost connection, is tried again here, up to `MAX_TRIES` times. All tasks
   obey one limiter, so one answer with `Retry-After` holds all of them; and so do those of other workers, which share
   what the service takes in a minute, by the ledger.
3. What no later try changes fails the row. A quota that is used up, and a key or model that the service does not
   accept, end the attempt: every other row would fail too.

The key is sent to the address that the settings give beside it, and is in no message. Redirects are not followed.
"""

from __future__ import annotations

import asyncio
import json
import random
import threading
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp

from batchmill.backoff import Backoff
from batchmill.clock import SystemClock
from batchmill.errors import BatchmillError, InvalidParams, QuotaUsedUp
from batchmill.operators.contract import RowError
from batchmill.operators.row_errors import ContextTooLong, RateLimited, Refused
from batchmill_worker.generation.base import Answer, Delta, EngineLimits, Prompt, ToolCall
from batchmill_worker.generation.engines.delta_queue import DeltaQueue
from batchmill_worker.generation.engines.request_limiter import RequestLimiter
from batchmill_worker.generation.engines.shared_limits import SharedLimits, tokens_of
from batchmill_worker.generation.logprobs import read_logprobs
from batchmill_worker.generation.tools import AUTO, REQUIRED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future

    from batchmill.ledger.workers.endpoints import EndpointLedger
    from batchmill.storage.named_endpoints import NamedEndpoint
    from batchmill_worker.generation.base import Draft, EngineStats, Generation, OnLong, Sampling

NAME = "remote"
MAX_TRIES = 8
MAX_BODY_BYTES = 16 * 1024 * 1024
MAX_SHOWN = 300
RETRY = Backoff(0.5, 20.0)
LATER = frozenset({408, 409, 429})
"""Statuses after which a request may succeed later; so may it after 5xx."""
UNUSABLE = frozenset({401, 403, 404})
QUOTA = "insufficient_quota"
_TOO_LONG = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_REFUSED = frozenset({"content_filter", "content_policy_violation"})


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    body: dict[str, Any]
    retry_after_s: float | None = None

    @property
    def may_succeed_later(self) -> bool:
        return self.status in LATER or self.status >= HTTPStatus.INTERNAL_SERVER_ERROR

    @property
    def kinds(self) -> set[str]:
        """The codes and types of its error."""
        error = self.error
        return {str(error.get("code")), str(error.get("type"))}

    @property
    def error(self) -> dict[str, Any]:
        """Its error; of another form: none."""
        error = self.body.get("error")
        return error if isinstance(error, dict) else {"message": str(error or self.body)}


class RemoteEngine:
    """See `TextEngine`. model: its name at the service. shared: the limits of all workers; None: there are no others.

    Raises `InvalidSettings` if the key cannot be read.
    """

    name = NAME
    precision = "of the service"

    def __init__(
        self, operator: str, model: str, endpoint: NamedEndpoint, shared: EndpointLedger | None = None
    ) -> None:
        self._operator = operator
        self._model = model
        self._endpoint = endpoint
        self._key = endpoint.key()
        self._shared = SharedLimits(endpoint, shared)
        self.digest = f"remote:{model}"
        self.limits = EngineLimits(None, endpoint.max_in_flight, is_local=False, has_tools=True)
        self._limiter = RequestLimiter(endpoint.max_in_flight, SystemClock())
        self._rng = random.Random()  # noqa: S311  # jitter, no secret
        self._tasks: dict[int, Future[None]] = {}
        self._deltas = DeltaQueue()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="remote", daemon=True)
        self._thread.start()
        self._session = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    def render(self, draft: Draft, sampling: Sampling, on_long: OnLong) -> Prompt:  # noqa: ARG002  # the service's
        """Return the draft: the service has the tokenizer."""
        return Prompt(draft)

    def encode(self, text: str) -> tuple[int, ...]:
        """Never called: the service continues no answers."""
        raise AssertionError(f"the tokens of {text[:20]!r} are not known here")

    def takes(self, sampling: Sampling) -> bool:  # noqa: ARG002  # the service's answer is the first that says so
        """Return True: the service will say so itself."""
        return True

    def submit(self, generation: Generation, place: int) -> None:  # noqa: ARG002  # the service has places of its own
        """Begin a generation."""
        self._tasks[generation.number] = asyncio.run_coroutine_threadsafe(self._generate(generation), self._loop)

    def step(self, wait_s: float) -> Sequence[Delta]:
        """Return what has happened. Raises `InvalidParams` or `QuotaUsedUp` if no request can succeed."""
        shown = [delta for delta in self._deltas.take(wait_s) if self._tasks.pop(delta.number, None) is not None]
        for delta in shown:
            if isinstance(delta.error, BatchmillError):
                raise delta.error
        self._deltas.count(shown)
        return shown

    def abort(self, number: int) -> None:
        """End a generation."""
        task = self._tasks.pop(number, None)
        if task is not None:
            task.cancel()

    def stats(self) -> EngineStats:
        """Return what the engine is at; while the service has to be left alone, nothing may enter."""
        capacity = 0 if self._limiter.wait_s else self._limiter.limit
        return self._deltas.stats(len(self._tasks), capacity)

    def close(self) -> None:
        """Close the connections."""
        for number in list(self._tasks):
            self.abort(number)
        asyncio.run_coroutine_threadsafe(self._session.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> aiohttp.ClientSession:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=self._endpoint.timeout_s))

    async def _generate(self, generation: Generation) -> None:
        try:
            delta = Delta(generation.number, answer=await self._answer(generation))
        except Exception as error:  # noqa: BLE001  # raised where it is read
            delta = Delta(generation.number, error=error)
        self._deltas.put(delta)

    async def _answer(self, generation: Generation) -> Answer:
        path, request = _request(self._model, generation, self._endpoint.max_tokens_field)
        why, tokens = "", tokens_of(generation)
        for tries in range(1, MAX_TRIES + 1):
            await self._limiter_allows()
            await self._shared.take(tokens)
            try:
                reply = await self._post(path, request)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                why = f"{type(error).__name__}: {error}"
                self._limiter.overloaded()
            else:
                if reply.status == HTTPStatus.OK:
                    self._limiter.succeeded()
                    answer = _answer_of(reply.body)
                    self._shared.give_back(tokens - answer.prompt_tokens - answer.generated_tokens)
                    return answer
                self._raise_if_final(reply)
                why = f"{reply.status}: {self._shown(reply)}"
                self._limiter.overloaded(reply.retry_after_s)
                await self._shared.hold(reply.retry_after_s)
            if tries < MAX_TRIES:
                await asyncio.sleep(RETRY.delay_s(tries, self._rng))
        raise RateLimited(f"the endpoint answered none of {MAX_TRIES} requests; at last: {why}", retryable=True)

    async def _limiter_allows(self) -> None:
        """Wait as long as the service has to be left alone, which may become longer meanwhile."""
        wait_s = self._limiter.wait_s
        if wait_s:
            await asyncio.sleep(wait_s)
            await self._limiter_allows()

    async def _post(self, path: str, request: dict[str, Any]) -> _Reply:
        url = f"{self._endpoint.url.rstrip('/')}/{path}"
        async with self._session.post(url, json=request, allow_redirects=False) as response:
            data = await response.content.read(MAX_BODY_BYTES)
            while not response.content.at_eof() and len(data) < MAX_BODY_BYTES:
                data += await response.content.read(MAX_BODY_BYTES - len(data))
            return _Reply(response.status, _parsed(data), _retry_after_s(response.headers))

    def _raise_if_final(self, reply: _Reply) -> None:
        """Raise for an answer that no later try changes: `BatchmillError` if it would be the same for every row."""
        shown = self._shown(reply)
        if QUOTA in reply.kinds:
            raise QuotaUsedUp(
                f"operator {self._operator!r}: the quota at the endpoint is used up: {shown}.",
                hint="Raise it there.",
                operator=self._operator,
                error_type="InsufficientQuota",
                error=shown,
                traceback="",
            )
        if reply.status in UNUSABLE:
            raise InvalidParams(
                f"operator {self._operator!r}: the endpoint does not accept the key or the model {self._model!r}: "
                f"{reply.status}: {shown}.",
                hint="Check 'model', and the key in the worker's settings.",
                operator=self._operator,
                parameter="model",
            )
        if reply.kinds & _TOO_LONG:
            raise ContextTooLong(shown)
        if reply.kinds & _REFUSED:
            raise Refused(shown)
        if not reply.may_succeed_later:
            raise RowError(f"the endpoint answered {reply.status}: {shown}")

    def _shown(self, reply: _Reply) -> str:
        text = str(reply.error.get("message", ""))
        if self._key:
            text = text.replace(self._key, "***")
        return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _request(model: str, generation: Generation, max_tokens_field: str) -> tuple[str, dict[str, Any]]:
    """Return the route and the body of a request."""
    sampling, draft = generation.sampling, generation.prompt.draft
    body: dict[str, Any] = {
        "model": model,
        max_tokens_field: sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": generation.seed,
    }
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if sampling.schema:
        schema = {"name": "answer", "schema": json.loads(sampling.schema), "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if sampling.logprobs is not None:
        body |= (
            {"logprobs": True, "top_logprobs": sampling.logprobs} if draft.is_chat else {"logprobs": sampling.logprobs}
        )
    if not draft.is_chat:
        prompt = list(generation.prompt.tokens) or draft.messages[0].text
        return "completions", {**body, "prompt": prompt}
    if draft.tools is not None:
        choice = draft.tools.choice
        named = {"type": "function", "function": {"name": choice}}
        body |= {
            "tools": json.loads(draft.tools.functions),
            "tool_choice": choice if choice in (AUTO, REQUIRED) else named,
        }
    return "chat/completions", {**body, "messages": [message.value() for message in draft.messages]}


def _answer_of(body: dict[str, Any]) -> Answer:
    """Read an answer. Raises `Refused`, and `RowError` for a body of another form."""
    try:
        choice = body["choices"][0]
        message = choice.get("message") or {}
        finish, refusal = choice.get("finish_reason") or "stop", message.get("refusal")
        text = message.get("content") if "message" in choice else choice.get("text")
        usage = body.get("usage") or {}
        counts = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
        cached = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        logprobs = read_logprobs(choice.get("logprobs"))
        calls = tuple(_read_call(one) for one in message.get("tool_calls") or ())
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise RowError(f"the endpoint's answer has another form than expected: {error!r}", retryable=True) from error
    if refusal or finish == "content_filter":
        raise Refused(str(refusal or "the endpoint's filter withheld the answer")[:MAX_SHOWN])
    return Answer(str(text or ""), str(finish), counts[0], cached, counts[1], logprobs, calls)


def _read_call(one: dict[str, Any]) -> ToolCall:
    function = one["function"]
    return ToolCall(str(one["id"]), str(function["name"]), str(function["arguments"]))


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {"error": {"message": data[:MAX_SHOWN].decode(errors="replace")}}


def _retry_after_s(headers: Any) -> float | None:
    """Read how long to wait, seconds; a date in `Retry-After` is not read."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(float(headers[name]) * unit, 0.0)
        except (KeyError, ValueError):
            continue
    return None
