"""What the services' metrics have in common: how one is declared, made, kept within bounds, and written out."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter as Tally
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from prometheus_client import (
    CONTENT_TYPE_PLAIN_0_0_4,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
OTHER = "other"
"""The label value for every name beyond the bounded number."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Bounds for durations from a millisecond to minutes."""

GaugeMode = Literal["all", "livesum"]
Sample = tuple["Sequence[str]", float]
"""The values of a metric's labels, and its value."""


class MetricKind(StrEnum):
    """The types of Prometheus that are in use."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as it is declared; `docs/metrics.md` lists them all, a test compares.

    buckets: of a histogram, the upper bounds, without the infinite one.
    """

    name: str
    kind: MetricKind
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def counter(self, registry: CollectorRegistry) -> Counter:
        """This metric, to be counted up."""
        return Counter(self.name, self.meaning, self.labels, registry=registry)

    def gauge(self, registry: CollectorRegistry, mode: GaugeMode = "all") -> Gauge:
        """This metric, to be set; `mode` says what several processes of one supervisor make of it together."""
        return Gauge(self.name, self.meaning, self.labels, registry=registry, multiprocess_mode=mode)

    def histogram(self, registry: CollectorRegistry) -> BulkHistogram:
        """This metric, to observe values with."""
        return BulkHistogram(self.name, self.meaning, self.labels, registry=registry, buckets=self.buckets)

    def read(self, samples: Iterable[Sample]) -> CounterMetricFamily | GaugeMetricFamily:
        """This metric with values that were read elsewhere, for a collector to give."""
        kind = CounterMetricFamily if self.kind is MetricKind.COUNTER else GaugeMetricFamily
        family = kind(self.name, self.meaning, labels=self.labels)
        for labels, value in samples:
            family.add_metric(labels, value)
        return family


OF_STAGE = ("operator", "stage", "pool")
"""The labels of work; the stage is the operator's name, unless a chain calls it otherwise."""
MAX_STAGE_NAMES = 64
"""How many names of stages a process distinguishes: users choose them."""

RETRIES = Metric(
    "batchmill_retries_total",
    MetricKind.COUNTER,
    "Attempts that another one follows, by reason: rows, operator, released, lost, straggler",
    (*OF_STAGE, "reason"),
)
ROWS_SETTLED = Metric(
    "batchmill_rows_total",
    MetricKind.COUNTER,
    "Rows of committed shards, by outcome: done, dead",
    (*OF_STAGE, "outcome"),
)
DEAD_LETTERS = Metric(
    "batchmill_dead_letters_total", MetricKind.COUNTER, "Rows that failed for good", (*OF_STAGE, "error")
)
LEDGER_CALLS = Metric(
    "batchmill_ledger_call_seconds",
    MetricKind.HISTOGRAM,
    "Time of a call of a ledger script, network included",
    ("script",),
    (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5),
)
LEDGER_FAILURES = Metric(
    "batchmill_ledger_failures_total", MetricKind.COUNTER, "Calls of ledger scripts without an answer"
)


class LedgerMeter:
    """Counts calls of the ledger's scripts, as `Ledger.observe_calls` reports them. Thread-safe."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = LEDGER_CALLS.histogram(registry)
        self._failures = LEDGER_FAILURES.counter(registry)

    def __call__(self, script: str, seconds: float, has_answered: bool) -> None:  # as `Ledger.observe_calls` calls it
        """Count one call."""
        if has_answered:
            self._calls.labels(script).observe(seconds)
        else:
            self._failures.inc()


class BulkHistogram(Histogram):
    """A histogram that takes many values in a few writes."""

    def observe_all(self, values: Sequence[float]) -> None:
        """Observe each of these values."""
        self._sum.inc(sum(values))
        for place, count in Tally(bisect_left(self._upper_bounds, value) for value in values).items():
            self._buckets[place].inc(count)


class BoundedNames:
    """Bounds the values of a label: names up to a limit stay as themselves. Thread-safe."""

    def __init__(self, limit: int, *, max_length: int = 64) -> None:
        self._limit = limit
        self._max_length = max_length
        self._known: set[str] = set()
        self._lock = threading.Lock()

    def __call__(self, name: str) -> str:
        """The name, its end cut where it is long, or `OTHER`."""
        name = name[: self._max_length]
        if name in self._known:
            return name
        with self._lock:
            if len(self._known) >= self._limit:
                return OTHER
            self._known.add(name)
        return name


def new_registry(*collectors: Collector) -> CollectorRegistry:
    """A registry of its own, which says nothing of when its metrics were made: that would be a series more for each."""
    disable_created_metrics()
    registry = CollectorRegistry(auto_describe=False)
    for collector in collectors:
        registry.register(collector)
    return registry


def exposition(registry: CollectorRegistry) -> bytes:
    """All metrics of a registry in Prometheus' text format, of the type `CONTENT_TYPE`."""
    return generate_latest(registry)
