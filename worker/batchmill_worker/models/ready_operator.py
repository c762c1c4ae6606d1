"""An operator that is set up, as the engine calls it."""

from __future__ import annotations

import logging
from threading import Lock
from typing import TYPE_CHECKING, Any

from batchmill_worker.runtime.fair_lock import FairLock
from batchmill_worker.runtime.hooks import NO_GUARD, HookGuard
from batchmill_worker.runtime.slot_board import Hook

if TYPE_CHECKING:
    from batchmill.operators.contract import BackendInfo, Operator, OperatorDefinition

log = logging.getLogger(__name__)


class ReadyOperator:
    """An operator that is set up. Each of its hooks is called by one thread at a time, guarded by `guard`."""

    def __init__(self, definition: OperatorDefinition, operator: Operator, guard: HookGuard = NO_GUARD) -> None:
        self.definition = definition
        self.guard = guard
        self.has_succeeded = False  # whether it has ever done a row in this process
        self.requests: Any = operator  # of the kind `REQUEST`: its executor knows the hooks
        self._infer = operator.infer
        self.cost = getattr(operator, "cost", None)
        self.costs = getattr(operator, "costs", None)
        self.row_key = getattr(operator, "row_key", None)
        self._fingerprint = getattr(operator, "fingerprint", None)
        self._computes_with = getattr(operator, "computes_with", None)
        self._prepare = getattr(operator, "prepare", None)
        self._finish = getattr(operator, "finish", None)
        self._teardown = getattr(operator, "teardown", None)
        self._preparing = FairLock()  # a shard asks for costs piece by piece, and lets batches of others in between
        self._finishing = Lock()

    @property
    def finishes(self) -> bool:
        """Whether it has a `finish`, which runs beside the next batch."""
        return self._finish is not None

    @property
    def overlaps(self) -> bool:
        """Whether it has a `prepare` or a `finish`, which run beside the device's work."""
        return self._prepare is not None or self._finish is not None

    def fingerprint(self) -> str:
        """Return what its results depend on that only it knows; "" if it has no such hooks."""
        backend = self.backend()
        if self._fingerprint is None:
            return backend.key if backend else ""
        with self.guard.calling(Hook.FINGERPRINT):
            own = str(self._fingerprint())
        return f"{own} {backend.key}" if backend else own

    def backend(self) -> BackendInfo | None:
        """Return what computes its results; None if it has no such hook."""
        if self._computes_with is None:
            return None
        with self.guard.calling(Hook.COMPUTES_WITH):
            info: BackendInfo = self._computes_with()
        return info

    def costs_of(self, batch: Any) -> Any:
        """Call the operator's `costs`; never while `prepare` runs, since both may use one tokenizer."""
        if self.costs is None:
            return None
        with self._preparing, self.guard.calling(Hook.COSTS):
            return self.costs(batch)

    def prepare(self, batch: Any) -> Any:
        """Turn a batch in the operator's format into what `infer` takes."""
        if self._prepare is None:
            return batch
        with self._preparing, self.guard.calling(Hook.PREPARE):
            return self._prepare(batch)

    def infer(self, batch: Any) -> Any:
        """Compute a batch; the caller has the device."""
        with self.guard.calling(Hook.INFER):
            return self._infer(batch)

    def finish(self, outputs: Any) -> Any:
        """Turn what `infer` returned into a batch in the operator's format."""
        if self._finish is None:
            return outputs
        with self._finishing, self.guard.calling(Hook.FINISH):
            return self._finish(outputs)

    def teardown(self) -> None:
        """Free what `setup` took. A failure is logged, and the operator is dropped all the same."""
        if self._teardown is None:
            return
        try:
            with self.guard.calling(Hook.TEARDOWN):
                self._teardown()
        except Exception:  # a hook that fails at the end must cost no result
            log.exception("operator %r failed in teardown", self.definition.name)
