"""How often operators are set up, found and torn down, and what those that stand take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchmill_worker.metering import catalogue

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class ModelMeter:
    """Is told what becomes of operators; this one counts nothing."""

    def found(self, operator: str) -> None:
        """A shard found its operator set up, or on its way."""

    def loaded(self, operator: str, seconds: float, nbytes: int) -> None:
        """An operator was set up, which took so long, and takes so much memory."""

    def failed(self, operator: str) -> None:
        """An operator could not be set up."""

    def let_go(self, operator: str, nbytes: int) -> None:
        """An operator was torn down, which had taken so much memory."""


UNCOUNTED = ModelMeter()


class CountedModels(ModelMeter):
    """Counts for one device process."""

    def __init__(self, registry: CollectorRegistry, pool: str) -> None:
        self._pool = pool
        self._loads = catalogue.MODEL_LOADS.counter(registry)
        self._load_seconds = catalogue.MODEL_LOAD_SECONDS.counter(registry)
        self._hits = catalogue.MODEL_HITS.counter(registry)
        self._evictions = catalogue.MODEL_EVICTIONS.counter(registry)
        self._standing = catalogue.MODELS_LOADED.gauge(registry, "livesum")
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
        self._standing.labels(operator, self._pool).inc()
        self._bytes.labels(operator, self._pool).inc(nbytes)

    def failed(self, operator: str) -> None:
        """Count a load that failed."""
        self._loads.labels(operator, self._pool, "failed").inc()

    def let_go(self, operator: str, nbytes: int) -> None:
        """Count what was torn down."""
        self._evictions.labels(operator, self._pool).inc()
        self._standing.labels(operator, self._pool).dec()
        self._bytes.labels(operator, self._pool).dec(nbytes)
