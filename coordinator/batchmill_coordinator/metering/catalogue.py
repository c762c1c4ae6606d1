"""The metrics of a coordinator. Only the leader exports what is read from the ledger, so that sums count it once."""

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

COUNTER, GAUGE = MetricKind.COUNTER, MetricKind.GAUGE
OF_WORK = ("operator", "pool")

SUBMITTED = Metric("batchmill_jobs_submitted_total", COUNTER, "Jobs accepted, replays included", OF_WORK)
FINISHED = Metric("batchmill_jobs_finished_total", COUNTER, "Jobs that ended, by state", (*OF_WORK, "state"))
DISPATCHED = Metric("batchmill_shards_dispatched_total", COUNTER, "Attempts published to a queue", OF_STAGE)
LEASES_LOST = Metric("batchmill_leases_lost_total", COUNTER, "Attempts lost with their worker", OF_STAGE)
SPLITS = Metric("batchmill_splits_total", COUNTER, "Shards that were split because they ended workers", OF_STAGE)
SPECULATED = Metric(
    "batchmill_shards_speculated_total",
    COUNTER,
    "Shards that took far longer than expected and were run by a second worker as well",
    OF_STAGE,
)
PREEMPTED = Metric(
    "batchmill_shards_preempted_total",
    COUNTER,
    "Attempts that were asked to make room for a job of far higher priority",
    OF_STAGE,
)
MESSAGES_REDELIVERED = Metric(
    "batchmill_messages_redelivered_total",
    COUNTER,
    "Messages published again, not claimed within 2 s: lost, or late at their worker",
    OF_STAGE,
)

WEBHOOK_TRIES = Metric(
    "batchmill_webhook_tries_total",
    COUNTER,
    "Messages that were sent to receivers of webhooks, by what became of them: delivered, pending (sent again later), "
    "given_up",
    ("outcome",),
)

LANE_REQUESTS = Metric(
    "batchmill_lane_requests_total",
    COUNTER,
    "Interactive requests, by outcome: done, gone (the client left), or the code of an error",
    ("model", "outcome"),
)
LANE_FIRST_OUTPUT = Metric(
    "batchmill_lane_first_output_seconds",
    MetricKind.HISTOGRAM,
    "Time until the first token of an interactive request, or all of its results",
    ("model",),
    SECONDS,
)
LANE_SECONDS = Metric(
    "batchmill_lane_seconds",
    MetricKind.HISTOGRAM,
    "Time of an interactive request that was answered",
    ("model",),
    SECONDS,
)
LANE_TOKENS = Metric(
    "batchmill_lane_generated_tokens_total", COUNTER, "Tokens that interactive requests generated", ("model",)
)
LANE_OPEN = Metric("batchmill_lane_open", GAUGE, "Interactive requests that wait or are being answered")
LANE_WAITING = Metric("batchmill_lane_waiting", GAUGE, "Interactive requests that no worker has taken", ("model",))

LEADER = Metric("batchmill_leader", GAUGE, "1 if this coordinator leads, else 0")
EPOCH = Metric("batchmill_leader_epoch", GAUGE, "Number of changes of the leader; 0 if this one does not lead")
NOTICES = Metric(
    "batchmill_notices", GAUGE, "1 for each kind of notice that is in force: clock, ledger; else 0", ("notice",)
)
LEDGER_UP = Metric("batchmill_ledger_up", GAUGE, "1 if this coordinator reaches the ledger, else 0")
LEDGER_PING = Metric("batchmill_ledger_ping_seconds", GAUGE, "Time of a ping of the ledger")

JOBS = Metric("batchmill_jobs", GAUGE, "Jobs that have not ended, by state", (*OF_WORK, "state"))
UNREADABLE = Metric(
    "batchmill_jobs_unreadable", GAUGE, "Jobs that have not ended and are set aside: their record cannot be read"
)
JOBS_KEPT = Metric("batchmill_jobs_kept", GAUGE, "Ended jobs that are not deleted yet")
SHARDS = Metric(
    "batchmill_shards",
    GAUGE,
    "Shards that are not settled, by state: planned, queued, running, waiting",
    (*OF_WORK, "state"),
)
ROWS = Metric(
    "batchmill_rows", GAUGE, "Rows of jobs that have not ended, by state: left, done, dead", (*OF_WORK, "state")
)
DEPTH_SHARDS = Metric(
    "batchmill_queue_depth_shards",
    GAUGE,
    "Shards that wait or run, of jobs that may run; bounded by the planner",
    ("pool",),
)
DEPTH_ROWS = Metric("batchmill_queue_depth_rows", GAUGE, "Rows neither done nor dead, of jobs that may run", ("pool",))
OLDEST = Metric(
    "batchmill_oldest_wait_seconds",
    GAUGE,
    "How long a published shard, or a job without running shards, waits",
    ("pool",),
)
AT_RISK = Metric(
    "batchmill_jobs_deadline_at_risk", GAUGE, "Jobs that will miss their deadline at their current speed", ("pool",)
)
WORKERS_WANTED = Metric(
    "batchmill_workers_wanted", GAUGE, "Workers that a pool needs to do what is left in its target time", ("pool",)
)
DRAIN = Metric(
    "batchmill_pool_drain_seconds", GAUGE, "Time that the workers of a pool need for what is left, if known", ("pool",)
)
HELD = Metric(
    "batchmill_pool_held_seconds",
    GAUGE,
    "Device time left that limits and quotas of tenants keep from being done in the target time of a pool",
    ("pool",),
)
WORKERS = Metric("batchmill_workers", GAUGE, "Workers of a pool, a device process each", ("pool",))
REVISIONS = Metric(
    "batchmill_pool_operator_revisions",
    GAUGE,
    "Versions of an operator, and codes of a version, among the workers of a pool, if there are several",
    ("pool", "operator"),
)
CAPACITY = Metric("batchmill_pool_capacity_shards", GAUGE, "Shards that the workers of a pool run at once", ("pool",))
OVER_BUDGET = Metric(
    "batchmill_jobs_over_budget", GAUGE, "Jobs that are paused because their budget is used up", ("pool",)
)
STREAM_LAG = Metric("batchmill_stream_lag_rows", GAUGE, "Rows that wait in streams, not yet planned", ("pool",))
STREAM_DELAY = Metric(
    "batchmill_stream_watermark_delay_seconds", GAUGE, "How old the watermark of the latest stream is", ("pool",)
)
STREAMS_AWAY = Metric("batchmill_streams_away", GAUGE, "Jobs whose stream does not answer", ("pool",))
STREAM_ROWS_LOST = Metric(
    "batchmill_stream_rows_lost",
    GAUGE,
    "Rows of live jobs that streams had deleted before they were planned",
    ("pool",),
)
LEASES = Metric("batchmill_leases", GAUGE, "Attempts that run under a lease")
LEASES_EXPIRED = Metric("batchmill_leases_expired", GAUGE, "Attempts whose lease has expired")
LEDGER_MEMORY = Metric("batchmill_ledger_memory_bytes", GAUGE, "Memory that the ledger's server uses")
DISK_FREE = Metric("batchmill_disk_free_bytes", GAUGE, "Free space on the disk of a folder", ("folder",))
DISK_SIZE = Metric("batchmill_disk_size_bytes", GAUGE, "Size of the disk of a folder", ("folder",))

TREND = Metric(
    "batchmill_operator_slowdown_ratio",
    GAUGE,
    "Device time a unit over that before its last change, which noise does not explain; 1 without such a change",
    ("operator", "params", "device_type", "changed"),
)

TRIALS = Metric("batchmill_trials", GAUGE, "Trials of batch sizes in the journal, by state", ("state",))
TRIAL_RATIO = Metric(
    "batchmill_trial_time_ratio",
    GAUGE,
    "Device time a unit with a batch size that won a trial over that before; until it expires",
    ("operator", "params", "device_type", "setting", "value"),
)

DEVICE_TIME = Metric(
    "batchmill_device_seconds_total", COUNTER, "Device time charged to jobs, by part", (*OF_WORK, "part")
)
MONEY = Metric("batchmill_cost_total", COUNTER, "What that device time cost", (*OF_WORK, "part"))
ROWS_CHARGED = Metric("batchmill_rows_charged_total", COUNTER, "Rows settled in that time", OF_WORK)
TENANT_DEVICE_TIME = Metric(
    "batchmill_tenant_device_seconds_total", COUNTER, "The same device time, by tenant", ("tenant", "part")
)
TENANT_MONEY = Metric("batchmill_tenant_cost_total", COUNTER, "What it cost, by tenant", ("tenant", "part"))
TENANT_ROWS_CHARGED = Metric(
    "batchmill_tenant_rows_charged_total", COUNTER, "Rows settled in it, by tenant", ("tenant",)
)
TENANT_QUOTA = Metric(
    "batchmill_tenant_quota_seconds", GAUGE, "Device time that a tenant may be charged for in a period", ("tenant",)
)
TENANT_QUOTA_USED = Metric(
    "batchmill_tenant_quota_used_seconds", GAUGE, "What it was charged in this period", ("tenant",)
)
DEVICE_TIME_TODAY = Metric(
    "batchmill_device_today_seconds", GAUGE, "Device time charged since midnight, UTC", ("part",)
)
MONEY_TODAY = Metric("batchmill_cost_today", GAUGE, "What that device time cost", ("part",))
CURRENCY = Metric("batchmill_currency_info", GAUGE, "1, with the currency of costs", ("currency",))

COORDINATOR_METRICS = (
    SUBMITTED,
    FINISHED,
    DISPATCHED,
    LEASES_LOST,
    RETRIES,
    SPLITS,
    SPECULATED,
    PREEMPTED,
    ROWS_SETTLED,
    DEAD_LETTERS,
    MESSAGES_REDELIVERED,
    WEBHOOK_TRIES,
    LANE_REQUESTS,
    LANE_FIRST_OUTPUT,
    LANE_SECONDS,
    LANE_TOKENS,
    LANE_OPEN,
    LANE_WAITING,
    LEDGER_CALLS,
    LEDGER_FAILURES,
    LEADER,
    EPOCH,
    NOTICES,
    LEDGER_UP,
    LEDGER_PING,
)
"""Those of every coordinator."""

LEADER_METRICS = (
    JOBS,
    UNREADABLE,
    JOBS_KEPT,
    SHARDS,
    ROWS,
    DEPTH_SHARDS,
    DEPTH_ROWS,
    OLDEST,
    AT_RISK,
    WORKERS,
    WORKERS_WANTED,
    DRAIN,
    HELD,
    CAPACITY,
    REVISIONS,
    OVER_BUDGET,
    STREAM_LAG,
    STREAM_DELAY,
    STREAMS_AWAY,
    STREAM_ROWS_LOST,
    LEASES,
    LEASES_EXPIRED,
    LEDGER_MEMORY,
    DISK_FREE,
    DISK_SIZE,
    TREND,
    TRIALS,
    TRIAL_RATIO,
    DEVICE_TIME,
    MONEY,
    ROWS_CHARGED,
    TENANT_DEVICE_TIME,
    TENANT_MONEY,
    TENANT_ROWS_CHARGED,
    TENANT_QUOTA,
    TENANT_QUOTA_USED,
    DEVICE_TIME_TODAY,
    MONEY_TODAY,
    CURRENCY,
)
"""Those of the leader alone."""
