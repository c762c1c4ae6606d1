"""Operators that are set up on this process's device: made once each, kept for the next shard, the oldest let go."""

from __future__ import annotations

import logging
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from batchmill.errors import BatchmillError
from batchmill_worker.failures import Failure, operator_failed

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from batchmill.operator import Operator, OperatorDefinition
    from batchmill_worker.context import SetupContext

log = logging.getLogger(__name__)

MAX_KEPT = 2
"""How many operators stay set up when no shard uses them."""


class OperatorKey(NamedTuple):
    """What makes two shards share one operator."""

    name: str
    version: str
    params: str  # canonical JSON


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
        self._prepare = getattr(operator, "prepare", None)
        self._finish = getattr(operator, "finish", None)
        self._teardown = getattr(operator, "teardown", None)
        self._preparing = Lock()
        self._finishing = Lock()

    @property
    def finishes(self) -> bool:
        """Whether what `infer` gives is finished beside the next batch."""
        return self._finish is not None

    @property
    def overlaps(self) -> bool:
        """Whether it has work to do beside the device's."""
        return self._prepare is not None or self._finish is not None

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


class OperatorCache:
    """The operators of one process, on one device. Safe for use by several threads.

    However many shards ask for one operator at once, it is set up once; the others wait for it and share its fate.
    One that failed to set up is tried again by the next shard. Beyond `max_kept`, the one unused for longest is
    torn down, before a new one is set up so that both need not fit on the device.
    """

    def __init__(self, device: str, context: SetupContext, *, max_kept: int = MAX_KEPT) -> None:
        self._device = device
        self._context = context
        self._max_kept = max_kept
        self._lock = Lock()
        self._entries: OrderedDict[OperatorKey, _Entry] = OrderedDict()  # the one used last at the end

    @contextmanager
    def borrow(self, definition: OperatorDefinition, params: Mapping[str, Any]) -> Iterator[ReadyOperator]:
        """The operator with these parameters, kept set up while the context lasts.

        Raises `InvalidParams` if the parameters do not fit, `OperatorFailed` if its constructor or `setup` fails,
        and whatever `BatchmillError` they raise.
        """
        key = OperatorKey(definition.name, definition.version, definition.canonical(params))
        entry, is_new = self._enter(key)
        try:
            if is_new:
                self._evict(self._max_kept)
                self._fill(key, entry, definition, params)
            yield entry.ready.result()
        finally:
            with self._lock:
                entry.users -= 1
            self._evict(self._max_kept)

    def loaded(self) -> list[OperatorKey]:
        """The operators that are set up, the one used last at the end."""
        with self._lock:
            return [key for key, entry in self._entries.items() if entry.ready.done()]

    def close(self) -> None:
        """Tear down every operator that no shard uses."""
        self._evict(0)

    def _enter(self, key: OperatorKey) -> tuple[_Entry, bool]:
        with self._lock:
            entry = self._entries.get(key)
            is_new = entry is None
            if entry is None:
                entry = self._entries[key] = _Entry()
            self._entries.move_to_end(key)
            entry.users += 1
            return entry, is_new

    def _fill(self, key: OperatorKey, entry: _Entry, definition: OperatorDefinition, params: Mapping[str, Any]) -> None:
        try:
            entry.ready.set_result(self._set_up(definition, params))
        except BaseException as error:  # noqa: BLE001  # told to all who wait for it, raised again by result()
            with self._lock:
                del self._entries[key]
            entry.ready.set_exception(error)

    def _set_up(self, definition: OperatorDefinition, params: Mapping[str, Any]) -> ReadyOperator:
        try:
            operator = definition.build(params)
            setup = getattr(operator, "setup", None)
            if setup is not None:
                with self._context.active():
                    setup(self._device)
        except BatchmillError:
            raise
        except Exception as error:
            raise operator_failed(
                definition.name,
                f"could not be set up on {self._device}",
                Failure.of(error),
                hint="Look at its parameters and at what the worker's machine lacks.",
            ) from error
        return ReadyOperator(definition, operator)

    def _evict(self, keep: int) -> None:
        with self._lock:
            surplus = len(self._entries) - keep
            idle = [key for key, entry in self._entries.items() if not entry.users][: max(surplus, 0)]
            evicted = [self._entries.pop(key) for key in idle]
        for entry in evicted:
            entry.ready.result().teardown()
