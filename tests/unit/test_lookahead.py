"""Which shards may wait in a queue before a worker is free to take them."""

from __future__ import annotations

from batchmill.jobs.job import JobForm, StageForm
from batchmill.ledger import JobRecord
from batchmill.ledger.formats.record import JobStage
from batchmill_coordinator.fleet.pools import PoolView
from batchmill_coordinator.fleet.worker_capacity import WorkerCapacity
from batchmill_coordinator.scheduling.lookahead import Room

SPEC = JobForm(stages=[StageForm(operator="echo"), StageForm(operator="echo", name="last")]).spec()


def stage(*, shard_s: float = 0.0, joined_s: float = 0.0, done: int = 1, planned: int = 10) -> JobStage:
    """The first stage of a chain; `joined_s` of a shard are spent in the second one, which runs with it."""
    first = {"planned": 1, "shards_planned": planned, "shards_done": done, "busy_us": int(1e6 * shard_s) * done}
    second = {"joins": int(joined_s > 0), "busy_us": int(1e6 * joined_s) * done}
    hashes = [{name.encode(): b"%d" % value for name, value in one.items()} for one in (first, second)]
    fields = {b"spec": SPEC.model_dump_json().encode(), b"state": b"running"}
    job = JobRecord.from_hashes("job-1", fields, hashes)
    return JobStage(job, job.first)


SHORT, LONG = stage(shard_s=0.1), stage(shard_s=3.0)


def pool(*slots: int) -> PoolView:
    members = tuple(WorkerCapacity(f"worker-{n}", count) for n, count in enumerate(slots))
    return PoolView(len(slots), sum(slots), frozenset({"echo"}), members)


def places(view: PoolView, one: JobStage, in_flight: int = 0) -> int:
    """How many shards of a stage are queued if there is no other."""
    room, count = Room.beside(view, in_flight), 0
    while room.has_place_for(one):
        room, count = room.after_one(), count + 1
    return count


def test_short_shards_wait_in_the_queue_and_long_ones_only_take_free_places() -> None:
    assert places(pool(2, 2), SHORT) == 6
    assert places(pool(2, 2), LONG) == 4
    assert places(pool(2, 2), LONG, in_flight=4) == 0
    assert places(pool(2, 2), SHORT, in_flight=4) == 2
    assert places(pool(2, 2), LONG, in_flight=7) == 0


def test_shards_that_are_not_measured_yet_are_long_unless_they_are_alone() -> None:
    assert places(pool(2, 2), stage(done=0)) == 4
    assert places(pool(2, 2), stage(done=0, planned=1)) == 6


def test_the_time_of_stages_that_run_together_counts() -> None:
    assert places(pool(2, 2), stage(shard_s=0.3, joined_s=0.1)) == 6
    assert places(pool(2, 2), stage(shard_s=0.3, joined_s=0.3)) == 4


def test_a_worker_that_takes_one_shard_at_a_time_has_the_next_one_waiting() -> None:
    assert places(pool(1, 2), LONG) == 5
