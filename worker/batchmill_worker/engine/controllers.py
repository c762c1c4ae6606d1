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
from batchmill_worker.batching.trials import Subject, Trials

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.insights.trials import Trial
    from batchmill.jobs.job import BatchPolicy, StageSpec
    from batchmill.operators.contract import BackendInfo, OperatorDefinition

log = logging.getLogger(__name__)

MAX_CONTROLLERS = 32
MAX_SHOWN = 8
SAVE_INTERVAL_S = 5.0
LEARN_INTERVAL_S = 60.0
"""How often workers read which trials of others have ended."""


class ProfileStore(Protocol):
    """Stores profiles that workers share."""

    def read(self, name: str) -> bytes | None:
        """Return the profile of that name, or None."""

    def write(self, name: str, profile: str) -> None:
        """Store a profile."""


class TrialStore(Protocol):
    """Keeps the journal of trials that workers share."""

    def of(self, name: str) -> list[Trial]:
        """Return the trials of that name."""

    def keep(self, name: str, trial: Trial) -> None:
        """Keep a trial, in place of what was kept of it."""


@dataclass(frozen=True, slots=True)
class _Kept:
    controller: Controller
    backend: BackendInfo | None
    trials: Trials | None


class ControllerCache:
    """Keeps the controllers of recent jobs, saves what they learn, and lists what they decide. Thread-safe.

    device: as `setup` receives it, `"cpu"` or `"cuda:0"`. is_interactive: see `Batching`.
    trials: where the journal of trials is; None: nothing is tried, and winners are not used.
    """

    def __init__(
        self,
        store: ProfileStore,
        device: str,
        clock: Clock | None = None,
        is_interactive: Callable[[], bool] = lambda: False,
        trials: TrialStore | None = None,
    ) -> None:
        self._store = store
        self._device = device
        self._clock = clock or SystemClock()
        self._is_interactive = is_interactive
        self._journal = trials
        self._lock = Lock()
        self._kept: Lru[tuple[str, str], _Kept] = Lru(MAX_CONTROLLERS)  # by operator and profile
        self._saved_at = self._learned_at = self._clock.monotonic()

    def batching(
        self, definition: OperatorDefinition, spec: StageSpec, backend: BackendInfo | None = None, job: str = ""
    ) -> Batching:
        """Return how to size the batches of a job. Raises `InvalidParams` if its parameters do not fit.

        backend: what computes its results in this process, if the operator reports it. job: its id.
        """
        digest = hashlib.sha256(definition.canonical(spec.params).encode()).hexdigest()[:32]
        name = self._name(definition, digest, backend)

        def make() -> _Kept:
            trials = self._trials(Subject(definition.name, digest[:12], device_type(self._device)), name)
            return _Kept(Controller(Random(), self._read(name)), backend, trials)  # noqa: S311  # jitter

        kept = self._kept.get_or_make((definition.name, name), make)
        is_one_batch = definition.takes_all and definition.batch_size is None
        policy = spec.batch.model_copy(update={"size": None}) if is_one_batch else spec.batch
        trials = kept.trials if _may_vary(policy) else None
        return Batching(policy, kept.controller, self._is_interactive, trials, job)

    def save(self, *, at_once: bool = False) -> None:
        """Share what was learned, at most every `SAVE_INTERVAL_S` unless `at_once`. Failures are only logged."""
        with self._lock:
            now = self._clock.monotonic()
            if not at_once and now - self._saved_at < SAVE_INTERVAL_S:
                return
            self._saved_at = now
            learns = now - self._learned_at >= LEARN_INTERVAL_S
            self._learned_at = now if learns else self._learned_at
            all_kept = [(name, kept) for (_, name), kept in self._kept.items()]
        try:
            for name, kept in all_kept:
                if kept.controller.is_changed:
                    self._store.write(name, kept.controller.profile().model_dump_json())
                if kept.trials is not None:
                    self._share(name, kept.trials, learns=learns)
        except ServiceUnavailable as error:
            log.warning("what was learned about batch sizes is not shared yet: %s", error)

    def _share(self, name: str, trials: Trials, *, learns: bool) -> None:
        if self._journal is None:
            return
        for trial in trials.unsaved():
            self._journal.keep(name, trial)
            trials.saved(trial)
        if learns:
            trials.learn(self._journal.of(name))

    def _trials(self, subject: Subject, name: str) -> Trials | None:
        if self._journal is None:
            return None
        try:
            kept = self._journal.of(name)
        except ServiceUnavailable as error:
            log.warning("which settings have won trials cannot be read: %s", error)
            kept = []
        return Trials(subject, Random(), self._clock, kept)  # noqa: S311  # the order of pairs

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

    def _name(self, definition: OperatorDefinition, digest: str, backend: BackendInfo | None) -> str:
        computes = f":{backend.key}" if backend else ""
        return f"{definition.name}:{definition.version}:{digest}:{device_type(self._device)}{computes}"


def _may_vary(policy: BatchPolicy) -> bool:
    """Whether a job leaves the size of its batches to the worker: it sets none, nor how much of a batch is overhead."""
    return policy.size is None and policy.target_overhead == type(policy)().target_overhead


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
