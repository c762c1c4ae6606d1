"""Every metric is in the documentation with its type, labels and meaning, and its name is as Prometheus wants it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from batchmill.telemetry.metrics import Metric, MetricKind
from batchmill_coordinator.metering import catalogue as coordinators
from batchmill_worker.metering import catalogue as workers

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
SECTIONS = {
    "## Of workers": workers.WORKER_METRICS,
    "## Of coordinators": coordinators.COORDINATOR_METRICS,
    "## Of the leader": coordinators.LEADER_METRICS,
}
ALL = sorted({metric for metrics in SECTIONS.values() for metric in metrics}, key=lambda metric: metric.name)
UNITS = ("seconds", "bytes", "ratio", "rows", "shards")


@pytest.mark.parametrize("heading", SECTIONS)
def test_every_metric_is_documented_as_it_is_and_none_that_does_not_exist(heading: str) -> None:
    section = PAGE.read_text().partition(f"{heading}\n")[2].partition("\n## ")[0]
    rows = [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in section.splitlines() if "| `" in line]
    assert rows == [row_of(metric) for metric in SECTIONS[heading]]


def row_of(metric: Metric) -> tuple[str, ...]:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"`{metric.name}`", metric.kind.value, labels, metric.meaning


@pytest.mark.parametrize("module", [workers, coordinators])
def test_every_metric_that_is_declared_is_listed(module: object) -> None:
    declared = {value for value in vars(module).values() if isinstance(value, Metric)}
    assert declared <= set(ALL)


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_a_name_follows_the_conventions(metric: Metric) -> None:
    assert re.fullmatch(r"batchmill_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind is MetricKind.COUNTER)
    assert bool(metric.buckets) == (metric.kind is MetricKind.HISTOGRAM)
    assert not re.search(r"_(ms|us|mb|minutes|percent)(_|$)", metric.name)
    if metric.kind is MetricKind.HISTOGRAM:
        assert metric.name.endswith(UNITS)


def test_no_label_is_a_job_a_shard_or_a_row() -> None:
    labels = {label for metric in ALL for label in metric.labels}
    assert labels == {
        "operator", "pool", "outcome", "phase", "reason", "error", "use", "slot", "cause", "device", "model", "state",
        "version", "script", "folder", "part", "tenant", "currency", "notice", "stage", "kind",
        "params", "device_type", "changed", "setting", "value",
    }  # fmt: skip
