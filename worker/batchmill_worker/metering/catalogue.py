"""The metrics of a worker. They name a slot `cpu0`; worker names, `cpu0@host-1`, differ after each start."""

from __future__ import annotations

from batchmill.telemetry.metrics import (
    DEAD_LETTERS,
    LEDGER_CALLS,
    LEDGER_FAILURES,
    OF_STAGE,
    RETRIES,
    ROWS_SETTLED,
    SECONDS,
    Metric,
    MetricKind,
)

COUNTER, GAUGE, HISTOGRAM = MetricKind.COUNTER, MetricKind.GAUGE, MetricKind.HISTOGRAM
OF_WORK = ("operator", "pool")
OF_SLOT = ("slot", "pool")
OF_DEVICE = ("device", "model", "pool")
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)

ATTEMPTS = Metric("batchmill_attempts_total", COUNTER, "Attempts that ended, by outcome", (*OF_STAGE, "outcome"))
ATTEMPT_SECONDS = Metric(
    "batchmill_attempt_duration_seconds", HISTOGRAM, "Time from a shard's message to its end", OF_STAGE, SECONDS
)
PHASE_SECONDS = Metric(
    "batchmill_phase_seconds_total", COUNTER, "Time that attempts spent, by phase", (*OF_STAGE, "phase")
)
ROWS_CACHED = Metric(
    "batchmill_rows_cached_total", COUNTER, "Rows of committed shards with results from the row cache", OF_STAGE
)
TOKENS = Metric(
    "batchmill_tokens_total",
    COUNTER,
    "Tokens of language models in committed shards, by kind: prompt, cached (of those), generated",
    (*OF_STAGE, "kind"),
)
ROW_FAILURES = Metric(
    "batchmill_row_failures_total", COUNTER, "Rows that failed in an attempt, retried or not", (*OF_STAGE, "error")
)
ATTEMPT_FAILURES = Metric(
    "batchmill_attempt_failures_total", COUNTER, "Attempts that failed, not only rows of them", (*OF_STAGE, "error")
)
BATCH_SECONDS = Metric(
    "batchmill_batch_duration_seconds", HISTOGRAM, "Time a batch was on the device", OF_WORK, SECONDS
)
BATCH_ROWS = Metric("batchmill_batch_rows", HISTOGRAM, "Rows of a batch", OF_WORK, ROWS)
BATCH_FAILURES = Metric(
    "batchmill_batch_failures_total", COUNTER, "Batches that raised on the device, halves included", OF_WORK
)
UNITS = Metric(
    "batchmill_batch_units_total", COUNTER, "Units of cost that ran on the device, by use", (*OF_WORK, "use")
)
BUSY_SECONDS = Metric("batchmill_slot_busy_seconds_total", COUNTER, "Time a slot had a batch on its device", OF_SLOT)
SLOT_SECONDS = Metric(
    "batchmill_slot_seconds_total",
    COUNTER,
    "Time of a slot, by what had it: batch (shards of jobs), interactive, unused",
    (*OF_SLOT, "use"),
)

MODEL_LOADS = Metric("batchmill_model_loads_total", COUNTER, "Operators set up, by outcome", (*OF_WORK, "outcome"))
MODEL_LOAD_SECONDS = Metric("batchmill_model_load_seconds_total", COUNTER, "Time of setting up operators", OF_WORK)
MODEL_HITS = Metric("batchmill_model_hits_total", COUNTER, "Shards that found their operator set up", OF_WORK)
MODEL_EVICTIONS = Metric("batchmill_model_evictions_total", COUNTER, "Operators torn down", OF_WORK)
MODELS_LOADED = Metric("batchmill_models_loaded", GAUGE, "Operators that are set up", OF_WORK)
MODEL_BYTES = Metric("batchmill_model_memory_bytes", GAUGE, "Memory that they take", OF_WORK)

WORKER_INFO = Metric("batchmill_worker_info", GAUGE, "1, with labels about this worker", ("pool", "version"))
SLOTS = Metric("batchmill_slots", GAUGE, "Device processes, by state", ("pool", "state"))
SLOT_ENDS = Metric(
    "batchmill_slot_ends_total", COUNTER, "Device processes that ended before they were stopped", (*OF_SLOT, "cause")
)
SLOT_CPU = Metric("batchmill_slot_cpu_seconds_total", COUNTER, "CPU time of a slot's present process", OF_SLOT)
SLOT_MEMORY = Metric("batchmill_slot_resident_memory_bytes", GAUGE, "Resident memory of a slot's process", OF_SLOT)
DEVICE_USE = Metric(
    "batchmill_device_utilization_ratio", GAUGE, "Share of time that a device computed, by its driver", OF_DEVICE
)
DEVICE_USED = Metric(
    "batchmill_device_memory_used_bytes", GAUGE, "Memory of a device in use, by any process", OF_DEVICE
)
DEVICE_SIZE = Metric("batchmill_device_memory_size_bytes", GAUGE, "Memory of a device", OF_DEVICE)
HOST_CPU_USE = Metric("batchmill_host_cpu_utilization_ratio", GAUGE, "Share of the machine's CPU time in use")
HOST_MEMORY_USED = Metric("batchmill_host_memory_used_bytes", GAUGE, "Memory of the machine that is not available")
HOST_MEMORY_SIZE = Metric("batchmill_host_memory_size_bytes", GAUGE, "Memory of the machine")

WORKER_METRICS = (
    ATTEMPTS,
    ATTEMPT_SECONDS,
    PHASE_SECONDS,
    ROWS_SETTLED,
    ROWS_CACHED,
    TOKENS,
    ROW_FAILURES,
    ATTEMPT_FAILURES,
    RETRIES,
    DEAD_LETTERS,
    BATCH_SECONDS,
    BATCH_ROWS,
    BATCH_FAILURES,
    UNITS,
    BUSY_SECONDS,
    SLOT_SECONDS,
    MODEL_LOADS,
    MODEL_LOAD_SECONDS,
    MODEL_HITS,
    MODEL_EVICTIONS,
    MODELS_LOADED,
    MODEL_BYTES,
    LEDGER_CALLS,
    LEDGER_FAILURES,
    WORKER_INFO,
    SLOTS,
    SLOT_ENDS,
    SLOT_CPU,
    SLOT_MEMORY,
    DEVICE_USE,
    DEVICE_USED,
    DEVICE_SIZE,
    HOST_CPU_USE,
    HOST_MEMORY_USED,
    HOST_MEMORY_SIZE,
)
"""All of them."""
