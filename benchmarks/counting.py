"""`python -m benchmarks.counting`: what counting for `/metrics` costs a batch and a shard, in microseconds.

The counting is the real one, into files in mapped memory as in a device process; what is counted takes no time.
Time is this thread's on the CPU, so that others on the machine do not count.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from batchmill.jobs.completion import Completion
from batchmill.jobs.retry import Done
from batchmill_worker.runtime.attempt_result import AttemptResult
from batchmill_worker.runtime.trace import NO_TRACE, Phase

if TYPE_CHECKING:
    from batchmill_worker.metering.attempts import SlotMetrics
    from batchmill_worker.runtime.trace import Recorder

RUNS = 7
SHARDS = 200
BATCHES = 200
A_BATCH_US, A_SHARD_US = 5.0, 100.0
"""What either may cost."""

OF_BATCH = (Phase.PREPARE, Phase.DEVICE_WAIT, Phase.INFER, Phase.FINISH)
OF_SHARD = (Phase.CLAIM, Phase.LOAD, Phase.STORE, Phase.COMMIT)


def main() -> None:
    """Measure, and print both."""
    with ExitStack() as stack:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = stack.enter_context(tempfile.TemporaryDirectory())
        metrics = _metrics()  # only now: prometheus-client decides on its files when it is imported
        _shard_us(metrics, 1)
        batches = [_batch_us(metrics) for _ in range(RUNS)]
        shards = [_shard_us(metrics, 8) for _ in range(RUNS)]
    for name, found, most in (("batch", batches, A_BATCH_US), ("shard of 8 batches", shards, A_SHARD_US)):
        print(f"a {name}: {statistics.median(found):.1f} us ({min(found):.1f} to {max(found):.1f}), at most {most:.0f}")


def _metrics() -> SlotMetrics:
    from batchmill.telemetry.metrics import new_registry
    from batchmill_worker.metering.attempts import SlotMetrics

    return SlotMetrics(new_registry(), "default", "cpu0")


def _batch_us(metrics: SlotMetrics) -> float:
    """What one batch more costs a shard, its share of the writing included."""
    long = _attempts_s(metrics, SHARDS // 10, BATCHES) - _attempts_s(metrics, SHARDS // 10, 1)
    bare = _bare_s(SHARDS // 10 * (BATCHES - 1))
    return (long - bare) / (SHARDS // 10 * (BATCHES - 1)) * 1e6


def _shard_us(metrics: SlotMetrics, batches: int) -> float:
    """What a shard costs with all its batches."""
    return (_attempts_s(metrics, SHARDS, batches) - _bare_s(SHARDS * batches)) / SHARDS * 1e6


def _attempts_s(metrics: SlotMetrics, shards: int, batches: int) -> float:
    completion = Completion(rows=64 * batches, rows_dead=0, nbytes=1)
    began = time.thread_time()
    for _ in range(shards):
        with metrics.attempt("job-1|0|17|1") as attempt:
            attempt.operator = "echo"
            for phase in OF_SHARD:
                with metrics.span(phase, shard="job-1|0|17|1"):
                    pass
            _run_batches(metrics, batches)
            metrics.rows_failed("echo", ())
            metrics.ended(attempt, Done(completion), AttemptResult.of_commit(completion))
    return time.thread_time() - began


def _run_batches(recorder: Recorder, batches: int) -> None:
    for _ in range(batches):
        for phase in OF_BATCH:
            with recorder.span(phase, shard="job-1|0|17|1", rows=64, units=70.0, true_units=64.0):
                pass


def _bare_s(batches: int) -> float:
    """What the marks cost when nobody takes them down."""
    began = time.thread_time()
    _run_batches(NO_TRACE, batches)
    return time.thread_time() - began


if __name__ == "__main__":
    main()
