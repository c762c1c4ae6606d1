"""The batch controllers of one process: one for each operator with its parameters, starting from shared profiles."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from dataclasses import dataclass
from random import Random
from threading import Lock
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import ValidationError

from batchmill.caches import Lru
from batchmill.clock import Clock, SystemClock
from batchmill.errors import ServiceUnavailable
from batchmill.fleet import BatchChoice
from batchmill_worker.batching.controller import Controller
from batchmill_worker.batching.profile import Profile
from batchmill_worker.batching.sizing import Batching

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.jobs.job import StageSpec
    from batchmill.operators.contract import BackendInfo, OperatorDefinition

log = logging.getLogger(__name__)

MAX_CONTROLLERS = 32
MAX_SHOWN = 8
SAVE_INTERVAL_S = 5.0


class ProfileStore(Protocol):
    """Stores profiles that workers share."""

    def read(self, name: str) -> bytes | None:
        """Return the profile of that name, or None."""

    def write(self, name: str, profile: str) -> None:
        """Store a profile."""


@dataclass(frozen=True, slots=True)
class _Kept:
    controller: Controller
    backend: BackendInfo | None


class ControllerCache:
    """Keeps the controllers of recent jobs, saves what they learn, and lists what they decide. Thread-safe.

    device: as `setup` receives it, `"cpu"` or `"cuda:0"`. is_interactive: see `Batching`.
    """

    def __init__(
        self,
        store: ProfileStore,
        device: str,
        clock: Clock | None = None,
        is_interactive: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._device = device
        self._clock = clock or SystemClock()
        self._is_interactive = is_interactive
        self._lock = Lock()
        self._kept: Lru[tuple[str, str], _Kept] = Lru(MAX_CONTROLLERS)  # by operator and profile
        self._saved_at = self._clock.monotonic()

    def batching(self, definition: OperatorDefinition, spec: StageSpec, backend: BackendInfo | None = None) -> Batching:
        """Return how to size the batches of a job. Raises `InvalidParams` if its parameters do not fit.

        backend: what computes its results in this process, if the operator reports it.
        """
        name = self._name(definition, spec, backend)

        def make() -> _Kept:
            return _Kept(Controller(Random(), self._read(name)), backend)  # noqa: S311  # jitter

        kept = self._kept.get_or_make((definition.name, name), make)
        is_one_batch = definition.takes_all and definition.batch_size is None
        policy = spec.batch.model_copy(update={"size": None}) if is_one_batch else spec.batch
        return Batching(policy, kept.controller, self._is_interactive)

    def save(self, *, at_once: bool = False) -> None:
        """Share what was learned, at most every `SAVE_INTERVAL_S` unless `at_once`. Failures are only logged."""
        with self._lock:
            now = self._clock.monotonic()
            if not at_once and now - self._saved_at < SAVE_INTERVAL_S:
                return
            self._saved_at = now
            controllers = [(name, kept.controller) for (_, name), kept in self._kept.items()]
            changed = [(name, controller) for name, controller in controllers if controller.is_changed]
        try:
            for name, controller in changed:
                self._store.write(name, controller.profile().model_dump_json())
        except ServiceUnavailable as error:
            log.warning("what was learned about batch sizes is not shared yet: %s", error)

    def choices(self) -> list[BatchChoice]:
        """List the last decision for each of the most recent operators, the latest first."""
        latest = [(operator, kept) for (operator, _), kept in reversed(self._kept.items())][:MAX_SHOWN]
        shown = []
        for operator, kept in latest:
            choice, rows = kept.controller.latest()
            if rows:
                chosen = BatchChoice(
                    operator=operator, units=round(choice.units, 1), rows=rows, reason=choice.reason.value
                )
                shown.append(chosen.model_copy(update=_described(kept.backend)))
        return shown

    def _read(self, name: str) -> Profile:
        try:
            found = self._store.read(name)
            return Profile.model_validate_json(found) if found else Profile()
        except ServiceUnavailable as error:
            log.warning("what others have learned about batch sizes cannot be read: %s", error)
        except ValidationError:
            log.warning("the batch profile %s is of another version and is ignored", name)
        return Profile()

    def _name(self, definition: OperatorDefinition, spec: StageSpec, backend: BackendInfo | None) -> str:
        digest = hashlib.sha256(definition.canonical(spec.params).encode()).hexdigest()[:32]
        computes = f":{backend.key}" if backend else ""
        return f"{definition.name}:{definition.version}:{digest}:{device_type(self._device)}{computes}"


def _described(backend: BackendInfo | None) -> dict[str, Any]:
    if backend is None:
        return {}
    return {"backend": backend.name, "precision": backend.precision, "worst_cosine": backend.worst_cosine}


def device_type(device: str) -> str:
    """Name the type of a device, equal for equally fast devices: a GPU's model, or the number of usable cores."""
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(device))
    return f"{device}x{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"
