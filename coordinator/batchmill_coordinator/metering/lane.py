"""Interactive requests, counted in the coordinator that has them."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

from batchmill.telemetry.metrics import BoundedNames
from batchmill_coordinator.metering import catalogue

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client import CollectorRegistry

MAX_MODELS = 64
RECENT_CALLS = 64
MAX_WAIT_S = 60


class LaneMetrics:
    """Counters of the lane, by what users call the model. For use on the event loop."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._name = BoundedNames(MAX_MODELS)
        self._requests = catalogue.LANE_REQUESTS.counter(registry)
        self._first = catalogue.LANE_FIRST_OUTPUT.histogram(registry)
        self._seconds = catalogue.LANE_SECONDS.histogram(registry)
        self._tokens = catalogue.LANE_TOKENS.counter(registry)
        self._open = catalogue.LANE_OPEN.gauge(registry)
        self._waiting = catalogue.LANE_WAITING.gauge(registry)
        self._waited_for: set[str] = set()
        self._answered_at: dict[str, deque[float]] = {}

    def began(self) -> None:
        """Count a call that is open."""
        self._open.inc()

    def ended(self, model: str, outcome: str, first_s: float | None, seconds: float) -> None:
        """Count a call that was open. outcome: done, gone, or the code of an error. first_s: until its first output."""
        name = self._name(model)
        self._open.dec()
        self._requests.labels(name, outcome).inc()
        if first_s is not None:
            self._first.labels(name).observe(first_s)
        if outcome == "done":
            self._seconds.labels(name).observe(seconds)
            self._answered_at.setdefault(name, deque(maxlen=RECENT_CALLS)).append(time.monotonic())

    def waiting(self, models: Iterable[str]) -> None:
        """Note which models the requests want that no worker has taken: one for each request."""
        counts = Counter(map(self._name, models))
        for name in self._waited_for | counts.keys():
            self._waiting.labels(name).set(counts[name])
        self._waited_for |= counts.keys()

    def refused(self, model: str, outcome: str) -> None:
        """Count a request that did not become a call, with the code of its error."""
        self._requests.labels(self._name(model), outcome).inc()

    def generated(self, model: str, tokens: int) -> None:
        """Count generated tokens."""
        self._tokens.labels(self._name(model)).inc(tokens)

    def wait_s(self, model: str, waiting: int) -> int:
        """Return how long that many requests will take at the rate of the last ones: seconds, at least 1."""
        times = self._answered_at.get(self._name(model))
        if times is None or len(times) < 2:
            return 1
        rate = (len(times) - 1) / max(time.monotonic() - times[0], 1e-3)
        return min(max(math.ceil(waiting / rate), 1), MAX_WAIT_S)
