"""Operators that are set up on this process's device: each is loaded once, within a memory budget, by recent use.

1. A shard borrows its operator. If it is set up, or being set up, the shard shares it.
2. If not, memory is freed first: operators that no shard uses are torn down, the least recently used first, until one
   of the expected size fits. One that is in use is never torn down. If it is in the way, it is marked as *evicting*:
   the process no longer announces it, so that no more shards are sent for it, and the new one waits for its shards.
3. It is set up, one operator at a time. If memory runs out all the same, idle operators are torn down, then the others
   as soon as their shards have ended, and setting up is tried again.
4. It is measured. If the budget is exceeded now, the least recently used go as soon as they are idle; the one used last
   always stays.

Rejected: tearing down an operator between two batches of a shard that uses it, and loading it again later. Two jobs
that do not fit together would then load their models in turns, for each batch.
"""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import Condition, Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from batchmill.errors import BatchmillError
from batchmill.operators.model_key import model_key
from batchmill_worker.metering.models import NO_MODEL_METRICS, ModelMetrics
from batchmill_worker.models.model_memory import MIN_BYTES, MemoryProbe
from batchmill_worker.models.ready_operator import ReadyOperator
from batchmill_worker.runtime.device import free_cached_memory, is_out_of_memory
from batchmill_worker.runtime.failures import Failure, operator_failed
from batchmill_worker.runtime.hooks import NO_GUARD, HookGuard
from batchmill_worker.runtime.slot_board import Hook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batchmill.operators.contract import OperatorDefinition, OperatorInfo
    from batchmill_worker.models.setup_context import SetupContext

log = logging.getLogger(__name__)

MAX_KEPT = 16  # operators that stay set up, however small; bounds the announcement too
MAX_ALIASES = 2  # keys of one operator that are announced


class OperatorKey(NamedTuple):
    """What makes two shards share one operator."""

    name: str
    version: str
    params: str  # canonical JSON


class LoadedModels(NamedTuple):
    """What a process announces of its loaded models, by their `model_key`."""

    ready: tuple[str, ...]  # the most recently used at the end
    loading: tuple[str, ...]
    has_room: bool  # whether another one, as large as the largest, fits beside them
    load_s: float  # how long loading the slowest of them took


class _Entry:
    """An entry of the cache: the operator, once it is set up, and how many shards use it."""

    def __init__(self) -> None:
        self.ready: Future[ReadyOperator] = Future()
        self.users = 0
        self.nbytes = 0  # 0 until it is measured
        self.load_s = 0.0
        self.aliases: OrderedDict[str, None] = OrderedDict()  # its keys, the most recently used at the end
        self.evicting = False  # to be torn down when it is idle

    @property
    def is_idle(self) -> bool:
        return self.users == 0 and self.ready.done()


class OperatorCache:
    """The operators of one process, on one device. Safe for use by several threads.

    However many shards ask for one operator at once, it is set up once; the others wait for it, and get the same error
    if it fails. The next shard then tries again.

    budget: the bytes that all of them may use together; one that is larger is loaded alone. None: no limit.
    on_change: called, by any thread, whenever `models()` has changed; the first of `listeners`.
    metrics: counts every operator that is found, set up, and torn down.
    guard: of every call of an operator's code.
    """

    def __init__(
        self,
        device: str,
        context: SetupContext,
        *,
        budget: int | None = None,
        max_kept: int = MAX_KEPT,
        on_change: Callable[[LoadedModels], None] = lambda _: None,
        metrics: ModelMetrics = NO_MODEL_METRICS,
        guard: HookGuard = NO_GUARD,
    ) -> None:
        self._device = device
        self._guard = guard
        self._context = context
        self._budget = budget
        self._max_kept = max_kept
        self.listeners = [on_change]
        self._metrics = metrics
        self._changed = Condition()  # guards all below
        self._entries: OrderedDict[OperatorKey, _Entry] = OrderedDict()  # the one used last at the end
        self._infos: dict[str, OperatorInfo] = {}
        self._sizes: dict[str, int] = {}  # by operator name, the largest it was found to be
        self._last_announced: LoadedModels | None = None
        self._announcing = Lock()  # so that the last change is announced last
        self._loading = Lock()  # one at a time: what is measured is its own

    @contextmanager
    def borrow(
        self,
        definition: OperatorDefinition,
        params: Mapping[str, Any],
        loading: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Iterator[ReadyOperator]:
        """Return the operator with these parameters, which stays set up while the context lasts.

        loading: a context to set it up in, if this call has to.

        Raises `InvalidParams` if the parameters do not fit, `OperatorFailed` if its constructor or `setup` fails,
        and whatever `BatchmillError` they raise.
        """
        key = OperatorKey(definition.name, definition.version, definition.canonical(params))
        entry, is_new = self._enter(key, self._model_key(definition, params))
        try:
            if is_new:
                self._fill(key, entry, lambda: self._load(key, definition, params), loading)
            else:
                self._metrics.found(key.name)
            yield entry.ready.result()
        finally:
            with self._changed:
                entry.users -= 1
                self._changed.notify_all()
            self._settle()

    def loaded(self) -> list[OperatorKey]:
        """List the operators that are set up, the most recently used at the end."""
        with self._changed:
            return [key for key, entry in self._entries.items() if entry.ready.done()]

    def models(self) -> LoadedModels:
        """Describe what is loaded, without the operators that are being evicted."""
        with self._changed:
            kept = [entry for entry in self._entries.values() if not entry.evicting]
            ready = tuple(name for entry in kept if entry.ready.done() for name in entry.aliases)
            loading = tuple(name for entry in kept if not entry.ready.done() for name in entry.aliases)
            largest = max((entry.nbytes for entry in kept), default=0)
            fits = self._over(max(largest, MIN_BYTES)) <= 0 and len(kept) < self._max_kept
            has_room = not self._entries or (fits and not loading and len(kept) == len(self._entries))
            return LoadedModels(ready, loading, has_room, max((entry.load_s for entry in kept), default=0.0))

    def close(self) -> None:
        """Tear down every operator that no shard uses."""
        with self._changed:
            gone = self._take([key for key, entry in self._entries.items() if entry.is_idle])
        self._tear_down(gone)

    def _model_key(self, definition: OperatorDefinition, params: Mapping[str, Any]) -> str:
        info = self._infos.get(definition.name)
        if info is None:
            info = self._infos[definition.name] = definition.announcement()
        return model_key(info, params)

    def _enter(self, key: OperatorKey, alias: str) -> tuple[_Entry, bool]:
        with self._changed:
            entry = self._entries.get(key)
            is_new = entry is None
            if entry is None:
                entry = self._entries[key] = _Entry()
            self._entries.move_to_end(key)
            entry.users += 1
            entry.aliases[alias] = None
            entry.aliases.move_to_end(alias)
            if len(entry.aliases) > MAX_ALIASES:
                entry.aliases.popitem(last=False)
        self._announce()
        return entry, is_new

    def _fill(
        self,
        key: OperatorKey,
        entry: _Entry,
        load: Callable[[], tuple[ReadyOperator, int]],
        loading: Callable[[], AbstractContextManager[None]],
    ) -> None:
        try:
            with self._loading:
                self._make_room(key)
                started_at = time.monotonic()
                with loading():
                    operator, entry.nbytes = load()
                entry.load_s = time.monotonic() - started_at
                self._metrics.loaded(key.name, entry.load_s, entry.nbytes)
            with self._changed:
                self._sizes[key.name] = max(entry.nbytes, self._sizes.get(key.name, 0))
            entry.ready.set_result(operator)
        except BaseException as error:  # noqa: BLE001  # raised by result() for all that wait for it
            self._metrics.failed(key.name)
            with self._changed:
                del self._entries[key]
            entry.ready.set_exception(error)
        self._settle()

    def _load(
        self, key: OperatorKey, definition: OperatorDefinition, params: Mapping[str, Any]
    ) -> tuple[ReadyOperator, int]:
        """Set the operator up and measure it. If memory runs out, evict first what is idle, then what is in use too."""
        for may_wait in (False, True):
            try:
                return self._set_up(definition, params)
            except BatchmillError as error:
                short = is_out_of_memory(error.__cause__ or error)
                if not (short and (self._clear(key, wait=may_wait) or self._clear(key, wait=True))):
                    raise
                log.warning("setting up operator %r is tried again without the others: %s", key.name, error)
            free_cached_memory()  # now that the error no longer references what was half loaded
        return self._set_up(definition, params)

    def _set_up(self, definition: OperatorDefinition, params: Mapping[str, Any]) -> tuple[ReadyOperator, int]:
        probe = MemoryProbe(self._device)
        try:
            with self._guard.calling(Hook.SETUP):
                with probe.measuring():
                    operator = definition.build(params)
                    setup = getattr(operator, "setup", lambda _: None)
                    with self._context.active():
                        setup(self._device)
                size = probe.size_of(operator)
        except BatchmillError:
            raise
        except Exception as error:
            raise operator_failed(
                definition.name,
                f"could not be set up on {self._device}",
                Failure.of(error),
                hint="Check its parameters, and what is missing on the worker machine.",
            ) from error
        return ReadyOperator(definition, operator, self._guard), size

    def _make_room(self, key: OperatorKey) -> None:
        """Tear down what is idle, and wait for what is in use, until an operator of the expected size fits."""
        while True:
            with self._changed:
                needed = self._sizes.get(key.name, 0)
                gone = self._take(self._surplus(needed, kept=key))
                in_the_way = [] if gone or not needed else self._in_the_way(needed)
            if not self._tear_down(gone):
                if not in_the_way:
                    return
                self._wait_for(in_the_way)

    def _clear(self, key: OperatorKey, *, wait: bool) -> bool:
        """Tear down all others that are idle, after waiting for all if `wait`; return whether there were any."""
        with self._changed:
            others = [entry for other, entry in self._entries.items() if other != key and entry.ready.done()]
        waited_for = others if wait else []
        self._wait_for(waited_for)
        with self._changed:
            gone = self._take([other for other, entry in self._entries.items() if other != key and entry.is_idle])
        return self._tear_down(gone) or bool(waited_for)

    def _in_the_way(self, needed: int) -> list[_Entry]:
        """List what has to be evicted so that `needed` bytes more fit, the least recently used first."""
        over, found = self._over(needed), []
        for entry in self._entries.values():
            if over > 0 and entry.ready.done():
                over -= entry.nbytes
                found.append(entry)
        return found

    def _wait_for(self, entries: list[_Entry]) -> None:
        """Mark these as evicting, and wait until all of them are idle."""
        with self._changed:
            for entry in entries:
                entry.evicting = True
        self._announce()
        with self._changed:
            self._changed.wait_for(lambda: all(entry.users == 0 for entry in entries))

    def _over(self, nbytes: int = 0) -> int:
        """By how many bytes the budget would be exceeded with `nbytes` more; 0 or less: they fit."""
        used = nbytes + sum(entry.nbytes for entry in self._entries.values())
        return 0 if self._budget is None else used - self._budget

    def _surplus(self, needed: int = 0, *, kept: OperatorKey | None = None) -> list[OperatorKey]:
        """List the idle operators to tear down so that `needed` bytes more fit: the evicting, then the least recent."""
        idle = [other for other, entry in self._entries.items() if entry.is_idle and other != kept]
        idle.sort(key=lambda other: not self._entries[other].evicting)
        over, count, surplus = self._over(needed), len(self._entries), []
        for other in idle:
            entry = self._entries[other]
            if over <= 0 and count <= self._max_kept and not entry.evicting:
                break
            over, count = over - entry.nbytes, count - 1
            surplus.append(other)
        return surplus

    def _settle(self) -> None:
        """Evict what is over the budget, except the operator used last, and announce what is loaded now."""
        with self._changed:
            latest = next(reversed(self._entries), None)
            gone = self._take(self._surplus(kept=latest))
            if all(entry.ready.done() for entry in self._entries.values()):  # no operator waits for an eviction
                is_over = self._over() > 0
                for key, entry in self._entries.items():
                    entry.evicting = is_over and key != latest
        self._tear_down(gone)

    def _take(self, keys: list[OperatorKey]) -> list[_Entry]:
        return [self._entries.pop(key) for key in keys]

    def _tear_down(self, entries: list[_Entry]) -> bool:
        """Tear these down and empty the list; return whether there were any."""
        was_any = bool(entries)
        for entry in entries:
            operator = entry.ready.result()
            operator.teardown()
            self._metrics.torn_down(operator.definition.name, entry.nbytes)
        entries.clear()
        if was_any:
            free_cached_memory()
        self._announce()
        return was_any

    def _announce(self) -> None:
        with self._announcing:
            models = self.models()
            if models != self._last_announced:
                self._last_announced = models
                for listener in self.listeners:
                    listener(models)
