"""The batch controllers of one process: one for each operator with its parameters, started from what others learned."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from random import Random
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from pydantic import ValidationError

from batchmill.caches import Lru
from batchmill.clock import Clock, SystemClock
from batchmill.errors import ServiceUnavailable
from batchmill.job import BatchChoice
from batchmill_worker.batching.controller import Controller
from batchmill_worker.batching.profile import Profile
from batchmill_worker.batching.sizing import Batching

if TYPE_CHECKING:
    from batchmill.job import JobSpec
    from batchmill.operators.contract import OperatorDefinition

log = logging.getLogger(__name__)

MOST_KEPT = 32
MOST_SHOWN = 8
SAVE_EVERY_S = 5.0


class ProfileStore(Protocol):
    """Where profiles are shared."""

    def read(self, name: str) -> bytes | None:
        """The profile of that name, or None."""

    def write(self, name: str, profile: str) -> None:
        """Keep a profile."""


class Tuners:
    """Hands out controllers, saves what they learn, and shows what they decide. Safe for use by several threads.

    device: as operators are told it, `"cpu"` or `"cuda:0"`.
    """

    def __init__(self, store: ProfileStore, device: str, clock: Clock | None = None) -> None:
        self._store = store
        self._device = device
        self._clock = clock or SystemClock()
        self._lock = Lock()
        self._kept: Lru[tuple[str, str], Controller] = Lru(MOST_KEPT)  # by operator and profile
        self._saved_at = self._clock.monotonic()

    def batching(self, definition: OperatorDefinition, spec: JobSpec) -> Batching:
        """How large the batches of a job are to be. Raises `InvalidParams` if its parameters do not fit."""
        name = self._name(definition, spec)
        controller = self._kept.get_or_make((definition.name, name), lambda: Controller(Random(), self._read(name)))  # noqa: S311  # jitter
        return Batching(spec.batch, controller)

    def save(self, *, at_once: bool = False) -> None:
        """Share what was learned, at most every `SAVE_EVERY_S` unless `at_once`. Never raises: it may wait."""
        with self._lock:
            now = self._clock.monotonic()
            if not at_once and now - self._saved_at < SAVE_EVERY_S:
                return
            self._saved_at = now
            changed = [(name, kept) for (_, name), kept in self._kept.items() if kept.is_changed]
        try:
            for name, controller in changed:
                self._store.write(name, controller.profile().model_dump_json())
        except ServiceUnavailable as error:
            log.warning("what was learned about batch sizes is not shared yet: %s", error)

    def choices(self) -> list[BatchChoice]:
        """What was decided last, for the operators used last, the latest first."""
        latest = [(operator, kept) for (operator, _), kept in reversed(self._kept.items())][:MOST_SHOWN]
        shown = []
        for operator, controller in latest:
            choice, rows = controller.latest()
            if rows:
                reason = choice.reason.value
                shown.append(BatchChoice(operator=operator, units=round(choice.units, 1), rows=rows, reason=reason))
        return shown

    def _read(self, name: str) -> Profile:
        try:
            found = self._store.read(name)
            return Profile.model_validate_json(found) if found else Profile()
        except ServiceUnavailable as error:
            log.warning("what others have learned about batch sizes cannot be read: %s", error)
        except ValidationError:
            log.warning("the batch profile %s is of another version; it is learned anew", name)
        return Profile()

    def _name(self, definition: OperatorDefinition, spec: JobSpec) -> str:
        digest = hashlib.sha256(definition.canonical(spec.params).encode()).hexdigest()[:32]
        return f"{definition.name}:{definition.version}:{digest}:{device_type(self._device)}"


def device_type(device: str) -> str:
    """What devices that are equally fast have in common: a GPU's model, or how many cores a process may use."""
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(device))
    return f"{device}x{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"
