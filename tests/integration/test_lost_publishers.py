"""A stage that takes all of its input at once, whose workers die: it is run again, as a whole; then the job fails."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from batchmill.clock import SystemClock
from batchmill.jobs.job import JobState
from batchmill.jobs.shard import Shard, ShardId, ShardState, Slice
from batchmill.ledger.plan_step import PlanStep
from batchmill.ledger.submission import Submission
from batchmill.settings import CoordinatorSettings
from batchmill.telemetry.metrics import new_registry
from batchmill_coordinator.fleet.fleet_view import FleetView
from batchmill_coordinator.metering.counts import RoleMetrics
from batchmill_coordinator.roles.recoverer import Recoverer
from batchmill_coordinator.scheduling.message_publisher import MessagePublisher
from support.records import spec_of
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.ledger import Ledger

RECEIPTS = 5


@pytest.fixture
def recoverer(ledger: Ledger, valkey_url: str, prefix: str) -> Iterator[Recoverer]:
    publisher = MessagePublisher(CoordinatorSettings(redis_url=valkey_url, redis_prefix=prefix))
    fleet, settler = FleetView(ledger, SystemClock()), cast("Any", SimpleNamespace())
    yield Recoverer(ledger, fleet, publisher, settler, 0.2, RoleMetrics(new_registry()))
    publisher.close()


def lose(ledger: Ledger, recoverer: Recoverer, shard_id: ShardId, epoch: int) -> None:
    """Run the shard in a worker that dies."""
    ref = ledger.shards.queue("job-1", ledger.jobs.read("job-1").first, shard_id, epoch)
    assert ref is not None
    assert ledger.shards.claim(ref, "default", "w", 1, with_job=False) is not None

    def is_over() -> bool:
        recoverer.step(epoch)
        return cast("Shard", ledger.shards.read(ref)).state is not ShardState.RUNNING

    until(is_over, "the end of its lease")


def test_it_is_never_halved_and_fails_the_job_in_the_end(ledger: Ledger, recoverer: Recoverer) -> None:
    epoch = ledger.lead("me", 3600)
    spec = spec_of(operator="echo", retry={"max_attempts": 3})
    spec = spec.model_copy(update={"stages": (spec.first.model_copy(update={"takes_all": True}),)})
    ledger.jobs.submit(Submission("job-1", spec, "digest"), max_live_jobs=1)
    shard = Shard("job-1", 0, ShardId((0,)), 0, RECEIPTS, (Slice(0, 0, RECEIPTS, RECEIPTS),))
    step = PlanStep([shard], [10], "end", at_end=True, total=None)
    ledger.shards.plan("job-1", ledger.jobs.read("job-1").first, step, epoch)
    for _ in range(3):
        assert ledger.jobs.read("job-1").state is JobState.RUNNING
        lose(ledger, recoverer, shard.shard_id, epoch)
    record = ledger.jobs.read("job-1")
    assert record.state in (JobState.FAILING, JobState.FAILED)
    assert record.error is not None
    assert "3 workers died" in record.error.message
