"""The lane in Redis: requests on one list for each pool and model, replies on one channel for each coordinator.

None of it is kept: lists expire, and nobody hears what is published to a process that has ended.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from batchmill.errors import ServiceUnavailable, WorkerLost
from batchmill.jobs.cost import write_pool_operator
from batchmill.ledger.formats.lane_messages import LaneReply, LaneRequest, LoadRequest, ReplyKind
from batchmill.ledger.scripting import calls
from batchmill.ledger.scripting.connection import redis_errors

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from batchmill.jobs.cost import Parts
    from batchmill.ledger.scripting.connection import Store

POLL_S = 1.0
INTERACTIVE = "interactive:"
"""What operators are called in the totals of costs, with their name behind it."""
MAX_PUBLISHED_BYTES = 256 * 1024
"""Of one reply: Redis disconnects a listener for which too much waits, and all calls of its coordinator are lost."""
RESULT_TTL_MS = 60_000
LIST_TTL_MS = 10 * 60 * 1000
LOAD_TTL_MS = 30_000
"""How long a request to load a model is valid, and the failure to load it is the answer."""
MAX_LOADS_OF_TENANT = 4
"""Models that wait to be loaded on behalf of one tenant, in a pool: those of others do not wait behind more."""


class LaneCharge(NamedTuple):
    """What a tenant has used. number: from 1. price_nano: of an hour, in billionths of the currency's unit."""

    number: int
    tenant: str
    pool: str
    operator: str
    price_nano: int
    used: Parts
    rows: int


class LaneLedger:
    """The lane of all pools. Each method raises `ServiceUnavailable` when Redis cannot be reached."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    def push(self, request: LaneRequest, max_waiting: int) -> tuple[bool, int]:
        """Let a request wait; return whether it does, and how many were waiting before it."""
        answer, waiting = calls.push_call(
            self._store,
            pool=request.pool,
            model=request.model,
            message=request.encode(),
            max_waiting=max_waiting,
            ttl_ms=LIST_TTL_MS,
        )
        return answer is calls.PushCallAnswer.OK, waiting

    def take(self, pool: str, model: str, count: int, wait_s: float) -> list[LaneRequest]:
        """Take the oldest requests for a model, at most `count`; wait for one if there is none."""
        key = self._keys.lane(pool, model)
        with redis_errors():
            found = self._store.redis.blmpop(wait_s, 1, key, direction="LEFT", count=count)
        return [LaneRequest.decode(message) for message in (found[1] if found else ())]

    def take_more(self, pool: str, model: str, count: int) -> list[LaneRequest]:
        """Take more requests for a model, without waiting."""
        with redis_errors():
            found = self._store.redis.lpop(self._keys.lane(pool, model), count)
        return [LaneRequest.decode(message) for message in found or ()]

    def take_past(self, pool: str, model: str, barred: Collection[str]) -> LaneRequest | None:
        """Take the oldest request for a model that is not of the tenants `barred`; None if there is none."""
        found = calls.take_call(self._store, pool=pool, model=model, barred=f" {' '.join(barred)} ")
        return LaneRequest.decode(found.message) if found.answer is calls.TakeCallAnswer.OK else None

    def withdraw(self, request: LaneRequest) -> bool:
        """Remove a request that waits; False if it does not wait any more."""
        with redis_errors():
            return bool(self._store.redis.lrem(self._keys.lane(request.pool, request.model), 1, request.encode()))

    def is_waiting(self, request: LaneRequest) -> bool:
        """Whether no worker has taken a request."""
        with redis_errors():
            key = self._keys.lane(request.pool, request.model)
            return self._store.redis.lpos(key, request.encode()) is not None

    def waiting(self, places: Sequence[tuple[str, str]]) -> list[int]:
        """Return how many requests wait for each of these pools and models."""
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for pool, model in places:
                pipe.llen(self._keys.lane(pool, model))
            return [int(length) for length in pipe.execute()]

    def reply(self, replies: Sequence[tuple[str, LaneReply]]) -> list[bool]:
        """Send replies to coordinators; return for each whether somebody has received it."""
        with redis_errors(), self._store.redis.pipeline(transaction=False) as pipe:
            for coordinator, reply in replies:
                if reply.kind is ReplyKind.DONE and len(reply.payload) > MAX_PUBLISHED_BYTES:
                    self._store.redis.set(self._keys.lane_result(reply.key), reply.payload, px=RESULT_TTL_MS)
                    reply = replace(reply, kind=ReplyKind.STORED, payload=b"")  # the same reply, by another way
                pipe.publish(self._keys.lane_replies(coordinator), reply.encode())
            return [bool(receivers) for receivers in pipe.execute()]

    def replies(self, coordinator: str) -> Iterator[LaneReply | None]:
        """Yield the replies to a coordinator; None when it is subscribed, and at least once a second.

        Ends with `ServiceUnavailable` when the connection breaks: replies may be lost then.
        """
        for message in self._listen(self._keys.lane_replies(coordinator)):
            yield None if message is None else self._complete(LaneReply.decode(message))

    def _complete(self, reply: LaneReply) -> LaneReply:
        """Return a reply with the results that were too large for the channel."""
        if reply.kind is not ReplyKind.STORED:
            return reply
        results = self._store.redis.getdel(self._keys.lane_result(reply.key))
        if results is None:
            lost = WorkerLost("the results of the request are gone.", hint="Send it again.")
            return replace(reply, kind=ReplyKind.ERROR, payload=json.dumps(lost.envelope()).encode())
        return replace(reply, kind=ReplyKind.DONE, payload=results)

    def abort(self, worker: str, key: str) -> None:
        """Have a worker drop a request that it has taken, by its key."""
        with redis_errors():
            self._store.redis.publish(self._keys.lane_aborts(worker), key)

    def aborts(self, worker: str) -> Iterator[str | None]:
        """Yield the keys of requests that a worker is to drop; None as for `replies`."""
        for message in self._listen(self._keys.lane_aborts(worker)):
            yield None if message is None else message.decode()

    def request_load(self, pool: str, request: LoadRequest) -> None:
        """Have a worker of a pool load a model, unless that waits already, or too many of the tenant's models do.

        A worker that has taken a request can die: once it is not listed any more, it is valid for `LOAD_TTL_MS` only.
        """
        key, loads = self._keys.lane_load(pool, request.model), self._keys.lane_loads(pool)
        with redis_errors():
            requested = self._store.redis.get(key)
            if requested:  # it failed
                return
            others = [LoadRequest.decode(message) for message in self._store.redis.lrange(loads, 0, -1)]
            if requested is not None:
                if any(other.model == request.model for other in others):
                    self._store.redis.pexpire(key, LOAD_TTL_MS)  # somebody still wants it
                return
            if sum(other.tenant == request.tenant for other in others) >= MAX_LOADS_OF_TENANT:
                return
            if self._store.redis.set(key, b"", nx=True, px=LOAD_TTL_MS):
                with self._store.redis.pipeline() as pipe:
                    pipe.rpush(loads, request.encode())
                    pipe.pexpire(loads, LIST_TTL_MS)
                    pipe.execute()

    def take_load(self, pool: str, wait_s: float) -> LoadRequest | None:
        """Take a model to be loaded; None if there is none within `wait_s`, or nobody wants it any more."""
        with redis_errors():
            found = self._store.redis.blpop([self._keys.lane_loads(pool)], wait_s)
            if not found:
                return None
            request = LoadRequest.decode(found[1])
            is_wanted = self._store.redis.expire(self._keys.lane_load(pool, request.model), LOAD_TTL_MS // 1000)
        return request if is_wanted else None

    def loaded(self, pool: str, model: str, failure: dict[str, Any] | None) -> None:
        """Note that a model was loaded, or the envelope of the error that it failed with."""
        key = self._keys.lane_load(pool, model)
        with redis_errors():
            if failure is None:
                self._store.redis.delete(key)
            else:
                self._store.redis.set(key, json.dumps(failure), px=LOAD_TTL_MS)

    def load_failure(self, pool: str, model: str) -> dict[str, Any] | None:
        """Return the envelope of the error that loading a model has failed with a moment ago, or None."""
        with redis_errors():
            found = self._store.redis.get(self._keys.lane_load(pool, model))
        return json.loads(found) if found else None

    def charge(self, process: str, charge: LaneCharge) -> None:
        """Charge a tenant once for time of a device; a process sends its charges in the order of their numbers."""
        calls.charge_calls(
            self._store,
            process=process,
            number=charge.number,
            tenant=charge.tenant,
            worked_for=write_pool_operator(charge.pool, f"{INTERACTIVE}{charge.operator}"),
            price=charge.price_nano,
            used=charge.used,
            rows=charge.rows,
        )

    def _listen(self, name: str) -> Iterator[bytes | None]:
        is_subscribed = False
        with redis_errors(), self._store.redis.pubsub() as channel:
            channel.subscribe(name)
            while True:
                message = channel.get_message(timeout=POLL_S)
                kind = None if message is None else message["type"]
                if kind == "subscribe":
                    if is_subscribed:  # the library has connected again by itself
                        raise ServiceUnavailable("the connection to the ledger broke: messages may be lost.")
                    is_subscribed = True
                yield message["data"] if kind == "message" else None
