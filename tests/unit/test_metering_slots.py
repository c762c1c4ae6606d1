"""What device processes counted is there after their end, in a folder that does not grow with their number."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from batchmill.errors import StorageError
from batchmill.telemetry.metrics import exposition, new_registry
from batchmill_worker.metering.slots import VARIABLE, SlotMetricsCollector, reserve

if TYPE_CHECKING:
    from pathlib import Path

COUNTS = """
import sys
from batchmill.telemetry.metrics import Metric, MetricKind, new_registry
registry = new_registry()
Metric("made_total", MetricKind.COUNTER, "Made", ("name",)).counter(registry).labels("a").inc(float(sys.argv[1]))
Metric("took_seconds", MetricKind.HISTOGRAM, "Took", (), (1.0, 2.0)).histogram(registry).observe_all([0.5, 1.5, 9.0])
Metric("held", MetricKind.GAUGE, "Held").gauge(registry, "livesum").set(1)
"""


def count(folder: Path, amount: float) -> int:
    """A process that counts and ends; its id."""
    process = subprocess.Popen([sys.executable, "-c", COUNTS, str(amount)], env={**os.environ, VARIABLE: str(folder)})
    assert process.wait() == 0
    return process.pid


def shown(metrics: SlotMetricsCollector) -> set[str]:
    return {line for line in exposition(new_registry(metrics)).decode().splitlines() if not line.startswith("#")}


def test_processes_are_added_up_and_counts_outlive_them_while_gauges_do_not(tmp_path: Path) -> None:
    metrics = SlotMetricsCollector(tmp_path)
    first, second = count(tmp_path, 2), count(tmp_path, 3)
    before = shown(metrics)
    assert {
        'made_total{name="a"} 5.0',
        'took_seconds_bucket{le="2.0"} 4.0',
        "took_seconds_sum 22.0",
        "held 2.0",
    } <= before

    metrics.archive(first)
    assert shown(metrics) == before - {"held 2.0"} | {"held 1.0"}
    metrics.archive(second)
    metrics.archive(second)
    assert shown(metrics) == before - {"held 2.0"}
    kinds = ("counter", "histogram", "summary")
    assert {path.name for path in tmp_path.iterdir()} == {f"{kind}_ended.db" for kind in kinds}


def test_room_that_was_taken_is_used_and_shows_nothing_before(tmp_path: Path) -> None:
    metrics = SlotMetricsCollector(tmp_path)
    reserve(tmp_path, 1)
    assert shown(metrics) == set()
    before = (tmp_path / "counter_ended.db").stat()
    metrics.archive(count(tmp_path, 2))
    after = (tmp_path / "counter_ended.db").stat()
    assert 'made_total{name="a"} 2.0' in shown(metrics)
    assert (after.st_size, after.st_blocks) == (before.st_size, before.st_blocks)
    assert before.st_blocks * 512 >= before.st_size


def test_a_disk_without_room_is_named_before_anything_is_counted(tmp_path: Path) -> None:
    (tmp_path / "counter_1.db").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"no room for metrics in .*: No space left on device.*TMPDIR"):
        reserve(tmp_path, 1)


def test_a_file_that_is_broken_is_dropped_and_the_others_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = SlotMetricsCollector(tmp_path)
    first, second = count(tmp_path, 2), count(tmp_path, 3)
    metrics.archive(first)
    broken = tmp_path / f"counter_{second}.db"
    broken.write_bytes(broken.read_bytes()[:10] + b"\xff" * 100)
    metrics.archive(second)
    assert 'made_total{name="a"} 2.0' in shown(metrics)
    assert "some metrics of an ended process are lost" in caplog.text
