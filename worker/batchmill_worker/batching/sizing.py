"""The size of the next batch of a shard: as the job sets it, else the operator."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from batchmill.jobs.job import BatchPolicy
from batchmill_worker.batching.controller import Controller, Targets

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.operators.contract import BatchSize
    from batchmill_worker.batching.packing import Packed, Window


INTERACTIVE_S = 0.05
"""How long a batch should take while somebody may wait for the device."""


class Batching:
    """A job's batch policy, and the controller of its operator on this device, which all its shards share.

    is_interactive: whether somebody may wait for the device between two batches.
    """

    def __init__(
        self,
        policy: BatchPolicy | None = None,
        controller: Controller | None = None,
        is_interactive: Callable[[], bool] = lambda: False,
    ) -> None:
        self._policy = policy or BatchPolicy()
        self._targets = Targets.of(self._policy)
        self._is_interactive = is_interactive
        self.controller = controller or Controller(Random())  # noqa: S311  # jitter, no secret

    def size(self, operator_size: BatchSize) -> BatchSize:
        """Return the size that applies: the job's, or else the operator's own."""
        return self._policy.size or operator_size

    def take(self, window: Window, operator_size: BatchSize) -> Packed | None:
        """Take the next batch out of a window; None when it is empty."""
        size = self.size(operator_size)
        if size == "auto":
            targets = self._targets
            if self._is_interactive():
                targets = replace(targets, latency_s=min(targets.latency_s or INTERACTIVE_S, INTERACTIVE_S))
            choice = self.controller.choose(targets)
            return window.take(choice.units, max_padding=self.controller.max_useful_padding(targets))
        self.controller.use_fixed_size()
        return window.take(math.inf, size)
