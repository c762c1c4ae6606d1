"""Operators that are set up on this process's device: made once each, kept in a memory budget, the oldest let go.

1. A shard borrows its operator. If it is there, or on its way, the shard shares it.
2. If not, room is made first: operators that no shard uses are torn down, the one unused for longest first, until one
   of the size that is expected fits. What is in use is never torn down: if it is in the way, it is *marked*, which
   takes it out of what the process announces, so that no more shards come for it, and the new one waits for its shards.
3. It is set up, one operator at a time; memory that does not suffice after all is met by tearing down what is idle,
   then by waiting for the others.
4. It is weighed. What is over the budget now goes as soon as it is idle; the one used last always stays.
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
from batchmill_worker.metering.models import UNCOUNTED, ModelMeter
from batchmill_worker.models.model_memory import LEAST_BYTES, Gauge
from batchmill_worker.runtime.device import free_cached_memory, is_out_of_memory
from batchmill_worker.runtime.failures import Failure, operator_failed
from batchmill_worker.runtime.fair_lock import FairLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from batchmill.operators.contract import Operator, OperatorDefinition, OperatorInfo
    from batchmill_worker.models.setup_context import SetupContext

log = logging.getLogger(__name__)

MAX_KEPT = 16
"""How many operators stay set up when no shard uses them, however small; bounds what is announced of them too."""

MAX_SPELLINGS = 2
"""How many keys one operator answers to."""


class OperatorKey(NamedTuple):
    """What makes two shards share one operator."""

    name: str
    version: str
    params: str  # canonical JSON


class LoadedModels(NamedTuple):
    """What a process has loaded, as others are to know it; keys as `model_key` makes them."""

    ready: tuple[str, ...]  # the one used last at the end
    loading: tuple[str, ...]
    has_room: bool  # whether another one as large as the largest fits beside them
    load_s: float  # how long loading the slowest of them took


class ReadyOperator:
    """An operator that is set up. Each of its hooks is called by one thread at a time.

    proven: whether it has ever done a row.
    """

    def __init__(self, definition: OperatorDefinition, operator: Operator) -> None:
        self.definition = definition
        self.proven = False
        self.infer = operator.infer
        self.cost = getattr(operator, "cost", None)
        self.costs = getattr(operator, "costs", None)
        self.row_key = getattr(operator, "row_key", None)
        self._fingerprint = getattr(operator, "fingerprint", None)
        self._prepare = getattr(operator, "prepare", None)
        self._finish = getattr(operator, "finish", None)
        self._teardown = getattr(operator, "teardown", None)
        self._preparing = FairLock()  # a shard that looks at its rows piece by piece lets others' batches in between
        self._finishing = Lock()

    @property
    def finishes(self) -> bool:
        """Whether what `infer` gives is finished beside the next batch."""
        return self._finish is not None

    @property
    def overlaps(self) -> bool:
        """Whether it has work to do beside the device's."""
        return self._prepare is not None or self._finish is not None

    def fingerprint(self) -> str:
        """What its results depend on that only it knows; "" if it does not say."""
        return "" if self._fingerprint is None else str(self._fingerprint())

    def costs_of(self, batch: Any) -> Any:
        """What the operator's `costs` says; never while `prepare` runs, for both may use one tokenizer."""
        with self._preparing:
            return self.costs(batch) if self.costs is not None else None

    def prepare(self, batch: Any) -> Any:
        """What `infer` takes, from a batch in the operator's format."""
        if self._prepare is None:
            return batch
        with self._preparing:
            return self._prepare(batch)

    def finish(self, outputs: Any) -> Any:
        """A batch in the operator's format, from what `infer` gave."""
        if self._finish is None:
            return outputs
        with self._finishing:
            return self._finish(outputs)

    def teardown(self) -> None:
        """Free what setup took. An operator that fails to is logged and let go all the same."""
        if self._teardown is None:
            return
        try:
            self._teardown()
        except Exception:  # a hook that fails on the way out takes no result with it
            log.exception("operator %r failed in teardown", self.definition.name)


class _Entry:
    """A place in the cache: the operator, once it is set up, and how many shards use it."""

    def __init__(self) -> None:
        self.ready: Future[ReadyOperator] = Future()
        self.users = 0
        self.nbytes = 0  # 0 until it is weighed
        self.load_s = 0.0
        self.spellings: OrderedDict[str, None] = OrderedDict()  # its keys, the one used last at the end
        self.marked = False  # to be torn down when it is idle

    @property
    def is_idle(self) -> bool:
        return self.users == 0 and self.ready.done()


class OperatorCache:
    """The operators of one process, on one device. Safe for use by several threads.

    However many shards ask for one operator at once, it is set up once; the others wait for it and share its fate.
    One that failed to set up is tried again by the next shard.

    budget: the bytes that all of them may take together; what alone is larger is loaded alone. None: any number.
    on_change: called, by any thread, whenever `models()` has changed.
    meter: told of every operator that is found, set up, and torn down.
    """

    def __init__(
        self,
        device: str,
        context: SetupContext,
        *,
        budget: int | None = None,
        max_kept: int = MAX_KEPT,
        on_change: Callable[[LoadedModels], None] = lambda _: None,
        meter: ModelMeter = UNCOUNTED,
    ) -> None:
        self._device = device
        self._context = context
        self._budget = budget
        self._max_kept = max_kept
        self._on_change = on_change
        self._meter = meter
        self._changed = Condition()  # guards all below
        self._entries: OrderedDict[OperatorKey, _Entry] = OrderedDict()  # the one used last at the end
        self._announced: dict[str, OperatorInfo] = {}
        self._sizes: dict[str, int] = {}  # by operator name, the largest it was found to be
        self._told: LoadedModels | None = None
        self._telling = Lock()  # so that the last change is told last
        self._loading = Lock()  # one at a time: what is measured is its own

    @contextmanager
    def borrow(
        self,
        definition: OperatorDefinition,
        params: Mapping[str, Any],
        loading: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Iterator[ReadyOperator]:
        """The operator with these parameters, kept set up while the context lasts.

        loading: the context in which it is set up, if that falls to this call.

        Raises `InvalidParams` if the parameters do not fit, `OperatorFailed` if its constructor or `setup` fails,
        and whatever `BatchmillError` they raise.
        """
        key = OperatorKey(definition.name, definition.version, definition.canonical(params))
        entry, is_new = self._enter(key, self._model_key(definition, params))
        try:
            if is_new:
                self._fill(key, entry, lambda: self._load(key, definition, params), loading)
            else:
                self._meter.found(key.name)
            yield entry.ready.result()
        finally:
            with self._changed:
                entry.users -= 1
                self._changed.notify_all()
            self._settle()

    def loaded(self) -> list[OperatorKey]:
        """The operators that are set up, the one used last at the end."""
        with self._changed:
            return [key for key, entry in self._entries.items() if entry.ready.done()]

    def models(self) -> LoadedModels:
        """What others are to know: of operators that are to go, nothing."""
        with self._changed:
            kept = [entry for entry in self._entries.values() if not entry.marked]
            ready = tuple(name for entry in kept if entry.ready.done() for name in entry.spellings)
            loading = tuple(name for entry in kept if not entry.ready.done() for name in entry.spellings)
            largest = max((entry.nbytes for entry in kept), default=0)
            fits = self._over(max(largest, LEAST_BYTES)) <= 0 and len(kept) < self._max_kept
            has_room = not self._entries or (fits and not loading and len(kept) == len(self._entries))
            return LoadedModels(ready, loading, has_room, max((entry.load_s for entry in kept), default=0.0))

    def close(self) -> None:
        """Tear down every operator that no shard uses."""
        with self._changed:
            gone = self._take([key for key, entry in self._entries.items() if entry.is_idle])
        self._tear_down(gone)

    def _model_key(self, definition: OperatorDefinition, params: Mapping[str, Any]) -> str:
        info = self._announced.get(definition.name)
        if info is None:
            info = self._announced[definition.name] = definition.announcement()
        return model_key(info, params)

    def _enter(self, key: OperatorKey, spelling: str) -> tuple[_Entry, bool]:
        with self._changed:
            entry = self._entries.get(key)
            is_new = entry is None
            if entry is None:
                entry = self._entries[key] = _Entry()
            self._entries.move_to_end(key)
            entry.users += 1
            entry.spellings[spelling] = None
            entry.spellings.move_to_end(spelling)
            if len(entry.spellings) > MAX_SPELLINGS:
                entry.spellings.popitem(last=False)
        self._tell()
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
                self._meter.loaded(key.name, entry.load_s, entry.nbytes)
            with self._changed:
                self._sizes[key.name] = max(entry.nbytes, self._sizes.get(key.name, 0))
            entry.ready.set_result(operator)
        except BaseException as error:  # noqa: BLE001  # told to all who wait for it, raised again by result()
            self._meter.failed(key.name)
            with self._changed:
                del self._entries[key]
            entry.ready.set_exception(error)
        self._settle()

    def _load(
        self, key: OperatorKey, definition: OperatorDefinition, params: Mapping[str, Any]
    ) -> tuple[ReadyOperator, int]:
        """The operator, set up, and its size. Short of memory, first what is idle goes, then what is in use as well."""
        for may_wait in (False, True):
            try:
                return self._set_up(definition, params)
            except BatchmillError as error:
                short = is_out_of_memory(error.__cause__ or error)
                if not (short and (self._clear(key, wait=may_wait) or self._clear(key, wait=True))):
                    raise
                log.warning("operator %r is tried again without the others: %s", key.name, error)
            free_cached_memory()  # now that the error no longer keeps what was half made
        return self._set_up(definition, params)

    def _set_up(self, definition: OperatorDefinition, params: Mapping[str, Any]) -> tuple[ReadyOperator, int]:
        gauge = Gauge(self._device)
        try:
            with gauge.measuring():
                operator = definition.build(params)
                setup = getattr(operator, "setup", None)
                if setup is not None:
                    with self._context.active():
                        setup(self._device)
            size = gauge.size_of(operator)
        except BatchmillError:
            raise
        except Exception as error:
            raise operator_failed(
                definition.name,
                f"could not be set up on {self._device}",
                Failure.of(error),
                hint="Look at its parameters and at what the worker's machine lacks.",
            ) from error
        return ReadyOperator(definition, operator), size

    def _make_room(self, key: OperatorKey) -> None:
        """Tear down what is idle, and wait for what is in use, until the operator fits as far as its size is known."""
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
        """Tear down all others that are idle, or wait for the rest too; whether there was anything."""
        with self._changed:
            others = [entry for other, entry in self._entries.items() if other != key and entry.ready.done()]
        waited_for = others if wait else []
        self._wait_for(waited_for)
        with self._changed:
            gone = self._take([other for other, entry in self._entries.items() if other != key and entry.is_idle])
        return self._tear_down(gone) or bool(waited_for)

    def _in_the_way(self, needed: int) -> list[_Entry]:
        """What is set up and has to go so that `needed` bytes more fit, the longest unused first."""
        over, found = self._over(needed), []
        for entry in self._entries.values():
            if over > 0 and entry.ready.done():
                over -= entry.nbytes
                found.append(entry)
        return found

    def _wait_for(self, entries: list[_Entry]) -> None:
        """Mark these, and wait until all of them are idle."""
        with self._changed:
            for entry in entries:
                entry.marked = True
        self._tell()
        with self._changed:
            self._changed.wait_for(lambda: all(entry.users == 0 for entry in entries))

    def _over(self, nbytes: int = 0) -> int:
        """By how many bytes the budget would be exceeded with so many more; 0 or less: they fit."""
        used = nbytes + sum(entry.nbytes for entry in self._entries.values())
        return 0 if self._budget is None else used - self._budget

    def _surplus(self, needed: int = 0, *, kept: OperatorKey | None = None) -> list[OperatorKey]:
        """The idle operators to tear down so that `needed` bytes more fit: the marked, then the longest unused."""
        idle = [other for other, entry in self._entries.items() if entry.is_idle and other != kept]
        idle.sort(key=lambda other: not self._entries[other].marked)
        over, count, surplus = self._over(needed), len(self._entries), []
        for other in idle:
            entry = self._entries[other]
            if over <= 0 and count <= self._max_kept and not entry.marked:
                break
            over, count = over - entry.nbytes, count - 1
            surplus.append(other)
        return surplus

    def _settle(self) -> None:
        """Let go of what is over the budget, but for the one used last, and tell what is there now."""
        with self._changed:
            latest = next(reversed(self._entries), None)
            gone = self._take(self._surplus(kept=latest))
            if all(entry.ready.done() for entry in self._entries.values()):  # nobody waits for what is marked
                is_over = self._over() > 0
                for key, entry in self._entries.items():
                    entry.marked = is_over and key != latest
        self._tear_down(gone)

    def _take(self, keys: list[OperatorKey]) -> list[_Entry]:
        return [self._entries.pop(key) for key in keys]

    def _tear_down(self, entries: list[_Entry]) -> bool:
        """Tear these down and empty the list; whether there were any."""
        was_any = bool(entries)
        for entry in entries:
            operator = entry.ready.result()
            operator.teardown()
            self._meter.let_go(operator.definition.name, entry.nbytes)
        entries.clear()
        if was_any:
            free_cached_memory()
        self._tell()
        return was_any

    def _tell(self) -> None:
        with self._telling:
            models = self.models()
            if models != self._told:
                self._told = models
                self._on_change(models)
