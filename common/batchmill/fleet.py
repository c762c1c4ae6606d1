"""Pools and workers, as others see them."""

from __future__ import annotations

from datetime import date  # of a field, which pydantic reads

from batchmill.jobs.frozen import Frozen


class PoolScale(Frozen):
    """How many workers a pool needs, as the leader has decided last. Times are seconds.

    The number follows the work at once, up and down. Who starts and stops workers holds the largest number of the last
    `start_s`: see `batchmill.held_need`.
    """

    pool: str
    workers_wanted: int
    workers: int  # that are there
    starting: int = 0  # that were wanted before and are expected to come
    machine_workers: int = 1  # of one supervisor of the pool, as seen last
    machines_wanted: int  # supervisors for `workers_wanted`
    held_s: float = 0.0  # of the device time left, what limits of tenants keep from being done in `target_s`
    drain_s: float | None = None  # how long the workers that are there need for what is left; None: nobody knows
    start_s: float  # from when a worker is wanted until it works: measured, or assumed
    target_s: float  # in which the pool is to do what is left
    why: str


class PoolUsage(Frozen):
    """What the workers of a pool cost since a day, and what would have been enough. Hours are of workers."""

    pool: str
    since: date  # from its begin, UTC
    worker_hours: float  # of those that were there
    enough_hours: float  # of those that were wanted, each for at least as long as a start takes
    busy_hours: float  # device time that was charged
    most_workers: int  # that were there at a time
    most_wanted: int
    currency: str
    cost: float  # of the workers that were there, at their prices
    cost_enough: float
    advice: str


class PoolStatus(Frozen):
    """What runs and what waits in a pool. Jobs that are paused wait for nobody and count only in `jobs`."""

    name: str
    workers: int
    capacity: int  # shards they take at once
    jobs: int  # that have not ended
    shards_queued: int  # published, and claimed by nobody yet
    shards_running: int
    shards_waiting: int  # planned, or to be tried again
    rows_waiting: int  # of its jobs, not settled yet, as far as their number is known; those that run included
    oldest_queued_s: float | None = None  # for how long the first of the queued shards has waited
    scale: PoolScale | None = None  # how many workers it needs; None: not decided yet
    mixed: dict[str, list[str]] = {}  # operators that its workers have in several versions or with other code: which


class BatchChoice(Frozen):
    """What a worker's controller has decided about the batches of one operator, latest."""

    operator: str
    units: float  # of cost: the size aimed at
    rows: int  # of the batch that ran last
    reason: str  # see `batchmill_worker.batching.controller.Reason`
    backend: str = ""  # the library that computes: "torch", "openvino"; "": the operator does not report it
    precision: str = ""  # the number format that it computes in
    worst_cosine: float | None = None  # of a few of its outputs with those of torch in float32; None: not measured


class WorkerInfo(Frozen):
    """A worker as others see it. Times are seconds since the epoch."""

    name: str  # after its device: "gpu0@host-pid"
    pool: str
    slot: int = 0  # its place among the slots of its supervisor
    device: str  # as its own torch calls the first it sees: "cpu", "cuda:0"
    device_type: str = "cpu"  # the device's model: "NVIDIA A100-SXM4-80GB"; "cpu"
    device_count: int = 1  # more than one: a worker over several GPUs, which are "cuda:0", "cuda:1", …
    memory_bytes: int | None = None  # its share of its devices' memory; None: not known, or the host's
    operators: list[str]
    revisions: dict[str, str] = {}  # of each of them: version and code, `2 (c0ffee012345)`
    shards_at_once: int
    pid: int
    started_at: float
    seen_at: float = 0.0
    running: list[str] = []  # the attempts it holds
    models: list[str] = []  # what it has loaded and takes shards for, as `model_key` names it
    loading: list[str] = []  # what it is about to have loaded
    has_room: bool = False  # whether another model fits beside them
    load_s: float = 0.0  # how long loading the slowest of them took
    price_per_hour: float = 0.0  # of it, in the currency of the coordinators; 0: not known
    leaves_at: float | None = None  # when its machine ends, as its cloud has announced; None: nothing is announced
    batches: list[BatchChoice] = []  # the operators it ran last, the latest first
