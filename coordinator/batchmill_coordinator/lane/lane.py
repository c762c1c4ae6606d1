"""The lane of one coordinator: gives interactive requests to workers, and watches over them until they are answered.

1. A call is pushed onto the list of its model, if some worker has that loaded and not too many wait. If none has it, it
   is asked for, and the client learns when to come again.
2. A thread hears the replies to this coordinator, and hands them to the event loop.
3. A task looks several times a second at the calls that are open: whether their time is over, whether their worker is
   still in the fleet, and, for those that nobody has noted as taken for a second, whether they still wait in the list.
4. A call whose worker is lost is given to another one, once, if the client has seen nothing of its answer.
5. When a client goes away, its request is taken out of the list, or the worker that has it is notified.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from batchmill.errors import AnswerTimeout, BatchmillError, ServiceUnavailable, TooManyRequests, from_envelope
from batchmill.ledger.formats.lane_messages import LaneReply, LaneRequest, LoadRequest, ReplyKind
from batchmill.processes.guarded_thread import GuardedThread
from batchmill_coordinator.lane.call import LaneCall, lost
from batchmill_coordinator.lane.target import is_loaded, loading_in, not_loaded, workers_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    from batchmill.ledger import Ledger
    from batchmill_coordinator.fleet.fleet_view import FleetView
    from batchmill_coordinator.fleet.pools import PoolView
    from batchmill_coordinator.lane.target import LaneTarget
    from batchmill_coordinator.metering.lane import LaneMetrics

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 8
LOOK_INTERVAL_S = 0.25
NOTED_WITHIN_S = 1.0
"""How long after it was pushed a request that does not wait any more has to be noted as taken."""
MAX_MISSED = 2
RECONNECT_S = 0.2


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """max_waiting: requests for one model. max_per_tenant: calls of one tenant here. timeout_s: of a call.

    has_tenants: whether there may be several, so that each leaves places of an engine for the others.
    """

    max_waiting: int
    max_per_tenant: int
    timeout_s: float
    has_tenants: bool = False


class Lane:
    """The open calls of one coordinator. `call` is for the event loop that `start` was given."""

    def __init__(self, ledger: Ledger, fleet: FleetView, limits: LaneLimits, metrics: LaneMetrics) -> None:
        self._lane = ledger.lane
        self._fleet = fleet
        self._limits = limits
        self._metrics = metrics
        self._name = secrets.token_hex(8)
        self._calls: dict[str, LaneCall] = {}
        self._tenants: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="lane")
        self._stopping = threading.Event()
        self._watching: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = GuardedThread("lane", self._hear)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to hear replies; calls are made on `loop`."""
        self._loop = loop
        self._thread.start()

    def stop(self) -> None:
        """End within a second or two."""
        self._stopping.set()
        self._thread.join()
        self._threads.shutdown(wait=False)

    @asynccontextmanager
    async def call(
        self, target: LaneTarget, rows: list[dict[str, Any]], tenant: str, *, streams: bool = False
    ) -> AsyncIterator[LaneCall]:
        """Give rows to a worker, and yield the call; leaving the context before its last reply ends it.

        Raises `ModelNotLoaded`, `TooManyRequests`, or the error with which the model could not be loaded.
        """
        try:
            call = await self._begin(target, rows, tenant, streams=streams)
        except BatchmillError as error:
            self._metrics.refused(target.title, error.code)
            raise
        self._metrics.began()
        try:
            yield call
        finally:
            self._end(call)

    def allowance(self, tenant: str) -> tuple[int, int]:
        """Return how many calls a tenant may have open here, and how many more now."""
        limit = self._limits.max_per_tenant
        return limit, max(limit - self._tenants.get(tenant, 0), 0)

    async def _begin(self, target: LaneTarget, rows: list[dict[str, Any]], tenant: str, *, streams: bool) -> LaneCall:
        if self._tenants[tenant] >= self._limits.max_per_tenant:
            raise _too_many(f"{self._limits.max_per_tenant} interactive requests of the tenant are open already.")
        self._tenants[tenant] += 1
        try:
            await self._require_loaded(target, tenant)
        except BaseException:
            self._discount(tenant)
            raise
        own = (target.pool, target.model, target.operator, target.params, rows, streams)
        leaves_places = self._limits.has_tenants
        request = LaneRequest(secrets.token_hex(8), self._name, tenant, *own, leaves_places=leaves_places)
        now = self._now()
        call = LaneCall(target, request, pushed_at=now, ends_at=now + self._limits.timeout_s)
        self._calls[request.id] = call
        try:
            is_accepted, waiting = await self._run(self._lane.push, request, self._limits.max_waiting)
            if not is_accepted:
                why = f"{waiting} requests wait for the model {target.title!r} already."
                raise _too_many(why, self._metrics.wait_s(target.title, waiting))
        except BaseException:
            self._forget(call)
            raise
        self._watch_soon()
        return call

    async def _require_loaded(self, target: LaneTarget, tenant: str) -> None:
        """Raise `ModelNotLoaded` if no worker has the model, and have it loaded."""
        latest = self._fleet.last_read()  # if it is too old, the watch will find that nobody takes the request
        if latest is not None and is_loaded(target, latest[0].get(target.pool)):
            return
        pool = (await self._run(self._fleet.pools)).get(target.pool)
        if not is_loaded(target, pool):
            await self._run(self._require_load, target, tenant, pool)
            raise not_loaded(target, pool)

    def _require_load(self, target: LaneTarget, tenant: str, pool: PoolView | None) -> None:
        """Have the model loaded, unless a worker is at it. Raises the error with which that failed a moment ago."""
        failure = self._lane.load_failure(target.pool, target.model)
        if failure is not None:
            raise from_envelope(failure, 500)
        if loading_in(target, pool):
            return
        request = LoadRequest(tenant, target.model, target.operator, target.params)
        self._lane.request_load(target.pool, request)

    def _end(self, call: LaneCall) -> None:
        """Forget a call; a request that is not answered is not wanted any more."""
        self._forget(call)
        if not call.is_over:
            call.is_over, call.outcome = True, "gone"
            self._soon(self._drop, call.request, call.worker)
        first_s = None if call.first_at is None else call.first_at - call.began_at
        self._metrics.ended(call.target.title, call.outcome, first_s, self._now() - call.began_at)

    def _forget(self, call: LaneCall) -> None:
        del self._calls[call.request.id]
        self._discount(call.request.tenant)

    def _discount(self, tenant: str) -> None:
        self._tenants[tenant] -= 1
        if not self._tenants[tenant]:
            del self._tenants[tenant]

    def _drop(self, request: LaneRequest, worker: str | None) -> None:
        with suppress(ServiceUnavailable):  # its answer is then ignored
            if worker is not None:
                self._lane.abort(worker, request.key)
            else:
                self._lane.withdraw(request)

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a function returns that waits for the ledger, from another thread."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(function, *args, **kwargs))

    def _soon(self, function: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run something in another thread that nobody waits for."""
        self._threads.submit(function, *args, **kwargs)

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name="lane")
        self._tasks.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._tasks.discard)
        return task

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    # replies

    def _hear(self) -> None:
        while not self._stopping.is_set():
            try:
                self._receive()
            except ServiceUnavailable as error:
                log.warning("replies of the lane cannot be received: %s", error)
                self._on_loop(self._lose_all)
            self._stopping.wait(RECONNECT_S)

    def _receive(self) -> None:
        for reply in self._lane.replies(self._name):
            if self._stopping.is_set():
                return
            if reply is not None:
                self._on_loop(self._deliver, reply)

    def _on_loop(self, function: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed: the server has stopped
                self._loop.call_soon_threadsafe(partial(function, *args, **kwargs))

    def _deliver(self, reply: LaneReply) -> None:
        call = self._calls.get(reply.id)
        if call is None:
            if reply.kind is ReplyKind.TAKEN:  # its client left while it was being taken
                self._soon(self._abort, reply.payload.decode(), reply.key)
        elif not call.deliver(reply):
            self._lose(call, "a part of its answer was lost")

    def _abort(self, worker: str, key: str) -> None:
        with suppress(ServiceUnavailable):
            self._lane.abort(worker, key)

    def _lose_all(self) -> None:
        """The connection broke: replies to any call that a worker has may be lost."""
        for call in list(self._calls.values()):
            if call.worker is not None:
                self._lose(call, "the connection to the ledger broke")

    # the watch

    def _watch_soon(self) -> None:
        if self._watching is None or self._watching.done():
            self._watching = self._begin_task(self._watch())

    async def _watch(self) -> None:
        """Look at the open calls while there are any."""
        while self._calls:
            await asyncio.sleep(LOOK_INTERVAL_S)
            self._metrics.waiting(call.target.title for call in self._calls.values() if call.is_waiting)
            try:
                await self._look()
            except BatchmillError as error:
                log.warning("interactive requests cannot be watched: %s", error)
            except Exception:  # without the watch no call would end in time
                log.exception("interactive requests could not be watched")
        self._metrics.waiting(())

    async def _look(self) -> None:
        now = self._now()
        for call in list(self._calls.values()):
            if now > call.ends_at and not call.is_over:
                self._soon(self._drop, call.request, call.worker)
                call.fail(
                    AnswerTimeout(
                        f"{call.target.title!r} did not answer within {self._limits.timeout_s:g} s.",
                        hint="Ask for less, or raise BATCHMILL_LANE_TIMEOUT_S.",
                    )
                )
        pools = await self._run(self._fleet.pools)
        waiting: set[tuple[str, str]] = set()  # whose oldest request waits: those behind it do, too
        for call in sorted(self._calls.values(), key=lambda one: one.pushed_at):
            pool, place = pools.get(call.target.pool), (call.target.pool, call.target.model)
            if call.is_over:
                continue
            if call.worker is not None and call.worker not in workers_of(pool):
                self._lose(call, f"worker {call.worker} is gone")
                continue
            is_due = call.worker is None and now - call.pushed_at > NOTED_WITHIN_S and place not in waiting
            if is_due and await self._waits(call, pool):
                waiting.add(place)

    async def _waits(self, call: LaneCall, pool: PoolView | None) -> bool:
        """Find out what has become of a request that nobody has noted as taken; return whether it waits."""
        if not await self._run(self._lane.is_waiting, call.request):
            call.missed += call.worker is None
            if call.missed >= MAX_MISSED and call.worker is None:
                self._lose(call, "the worker that took it is gone")
            return False
        if not is_loaded(call.target, pool):  # its last worker has evicted it, or is gone: another one loads it
            try:
                await self._run(self._require_load, call.target, call.request.tenant, pool)
            except BatchmillError as error:
                self._soon(self._drop, call.request, None)
                call.fail(error)
                return False
        return True

    def _lose(self, call: LaneCall, why: str) -> None:
        """Give a call to another worker, or end it if the client has seen something or that was done before."""
        if call.is_over:
            return
        self._soon(self._drop, call.request, call.worker)  # it may be alive, and work for nobody
        if call.has_output or call.request.attempt:
            call.fail(lost(call.target, why))
            return
        log.info("an interactive request to %r is given to another worker: %s", call.target.title, why)
        self._begin_task(self._push_again(call, call.give_to_another(self._now())))

    async def _push_again(self, call: LaneCall, request: LaneRequest) -> None:
        try:
            is_accepted, _ = await self._run(self._lane.push, request, self._limits.max_waiting)
            if not is_accepted:
                call.fail(lost(call.target, "its worker is gone, and too many others wait"))
        except BatchmillError as error:
            call.fail(error)


def _too_many(what: str, retry_after_s: int = 1) -> TooManyRequests:
    return TooManyRequests(what, hint="Try again in a moment.", retry_after_s=retry_after_s)
