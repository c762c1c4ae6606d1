"""Metrics of loaded operators: how often they are set up, reused and torn down, and what memory they use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill_worker.metering import catalogue

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class ModelMetrics:
    """Receives what happens to operators; this class counts nothing."""

    def found(self, operator: str) -> None:
        """Count a shard that found its operator set up, or being set up."""

    def loaded(self, operator: str, seconds: float, nbytes: int) -> None:
        """Count an operator that was set up in `seconds`, and uses `nbytes` of memory."""

    def failed(self, operator: str) -> None:
        """Count an operator that could not be set up."""

    def torn_down(self, operator: str, nbytes: int) -> None:
        """Count an operator that was torn down, and used `nbytes` of memory."""


NO_MODEL_METRICS = ModelMetrics()


class CountedModelMetrics(ModelMetrics):
    """Counts for one device process."""

    def __init__(self, registry: CollectorRegistry, pool: str) -> None:
        self._pool = pool
        self._loads = catalogue.MODEL_LOADS.counter(registry)
        self._load_seconds = catalogue.MODEL_LOAD_SECONDS.counter(registry)
        self._hits = catalogue.MODEL_HITS.counter(registry)
        self._evictions = catalogue.MODEL_EVICTIONS.counter(registry)
        self._loaded = catalogue.MODELS_LOADED.gauge(registry, "livesum")
        self._bytes = catalogue.MODEL_BYTES.gauge(registry, "livesum")

    def found(self, operator: str) -> None:
        """Count a hit."""
        self._hits.labels(operator, self._pool).inc()

    def loaded(self, operator: str, seconds: float, nbytes: int) -> None:
        """Count a load."""
        for other in (self._hits, self._evictions):
            other.labels(operator, self._pool)
        self._loads.labels(operator, self._pool, "failed")
        self._loads.labels(operator, self._pool, "ok").inc()
        self._load_seconds.labels(operator, self._pool).inc(seconds)
        self._loaded.labels(operator, self._pool).inc()
        self._bytes.labels(operator, self._pool).inc(nbytes)

    def failed(self, operator: str) -> None:
        """Count a load that failed."""
        self._loads.labels(operator, self._pool, "failed").inc()

    def torn_down(self, operator: str, nbytes: int) -> None:
        """Count what was torn down."""
        self._evictions.labels(operator, self._pool).inc()
        self._loaded.labels(operator, self._pool).dec()
        self._bytes.labels(operator, self._pool).dec(nbytes)
