"""The size of the next batch of a shard: as the job sets it, else the operator."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from batchmill.jobs.job import BatchPolicy
from batchmill_worker.batching.controller import HAND_OVER_S, MAX_BATCH_S, Controller, Targets
from batchmill_worker.batching.evidence import BatchOutcome

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.operators.contract import BatchSize
    from batchmill_worker.batching.packing import Packed, Window
    from batchmill_worker.batching.trials import Arm, Trials

INTERACTIVE_S = 0.05
"""How long a batch should take while somebody may wait for the device."""


class Batching:
    """A job's batch policy, and the controller of its operator on this device, which all its shards share.

    is_interactive: whether somebody may wait for the device between two batches.
    trials: what is tried with the operator; None: nothing, as where the job sets its own target. job: its id.
    """

    def __init__(
        self,
        policy: BatchPolicy | None = None,
        controller: Controller | None = None,
        is_interactive: Callable[[], bool] = lambda: False,
        trials: Trials | None = None,
        job: str = "",
    ) -> None:
        self._policy = policy or BatchPolicy()
        self._targets = Targets.of(self._policy)
        self._is_interactive = is_interactive
        self._trials = trials
        self._job = job
        self.controller = controller or Controller(Random())  # noqa: S311  # jitter, no secret

    def size(self, operator_size: BatchSize) -> BatchSize:
        """Return the size that applies: the job's, or else the operator's own."""
        return self._policy.size or operator_size

    def take(self, window: Window, operator_size: BatchSize) -> Packed | None:
        """Take the next batch out of a window; None when it is empty."""
        size = self.size(operator_size)
        if size != "auto":
            self.controller.use_fixed_size()
            return window.take(math.inf, size)
        targets = self._targets
        if self._is_interactive():
            targets = replace(targets, latency_s=min(targets.latency_s or INTERACTIVE_S, INTERACTIVE_S))
            return self._take(window, targets)
        return self._take(window, targets) if self._trials is None else self._take_in_trials(window, self._trials)

    def _take(self, window: Window, targets: Targets, *, is_trial: bool = False) -> Packed | None:
        choice = self.controller.choose(targets, is_trial=is_trial)
        return window.take(choice.units, max_padding=self.controller.max_useful_padding(targets))

    def _take_in_trials(self, window: Window, trials: Trials) -> Packed | None:
        usual = replace(self._targets, scale=trials.usual)
        arm = self._next_arm(trials, usual)
        targets = usual if arm is None else replace(usual, scale=arm.value)
        packed = self._take(window, targets, is_trial=arm is not None)
        if packed is None:
            return None
        trials.took(self._job, packed.units, arm, is_last=window.is_empty)
        return packed if arm is None else replace(packed, arm=arm)

    def _next_arm(self, trials: Trials, usual: Targets) -> Arm | None:
        values = trials.to_try(self._job)
        units = self.controller.largest_settled(usual) if values else None
        if units is None:
            return None
        changed = {value: self.controller.largest_settled(replace(usual, scale=value)) for value in values}
        return trials.next_arm(self._job, units, {value: size for value, size in changed.items() if size is not None})

    def ran(
        self, packed: Packed, seconds: float, *, peak_bytes: float | None = None, limit_bytes: float = math.inf
    ) -> None:
        """Learn from a batch that ran; see `Controller.ran`."""
        self.controller.ran(
            packed.units, seconds, rows=packed.rows.size, peak_bytes=peak_bytes, limit_bytes=limit_bytes
        )
        if self._trials is not None and packed.arm is not None:
            outcome = BatchOutcome(seconds, self._targets.latency_s or MAX_BATCH_S, peak_bytes, limit_bytes)
            self._trials.ran(packed.arm, packed.true_units, outcome, HAND_OVER_S)

    def failed(self, packed: Packed, *, out_of_memory: bool) -> None:
        """Learn from a batch that failed."""
        if out_of_memory:
            self.controller.record_oom(packed.units)
        if self._trials is not None and packed.arm is not None:
            self._trials.failed(packed.arm, out_of_memory=out_of_memory)
