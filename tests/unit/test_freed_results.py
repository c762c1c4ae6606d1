"""Results between stages that wait for their deletion."""

from __future__ import annotations

from typing import Any, cast

import pytest

from batchmill.errors import ServiceUnavailable
from batchmill.jobs.job import JobForm
from batchmill.ledger import JobRecord
from batchmill.ledger.formats.encodings import FreedParts
from batchmill.ledger.formats.record import JobStage
from batchmill_coordinator.results.freed_results import KEPT_S, FreedResults
from support.hand_clock import HandClock

CHAIN = JobForm(stages=[{"operator": "echo", "name": "first"}, {"operator": "echo"}]).spec().model_dump_json()


class AwayJobs:
    def read_many(self, _: Any) -> Any:
        raise ServiceUnavailable("the ledger is away.")


class AwayLedger:
    jobs = AwayJobs()


def test_what_could_not_be_deleted_as_the_ledger_was_away_is_tried_again() -> None:
    clock = HandClock()
    freed = FreedResults(cast("Any", AwayLedger()), cast("Any", None), clock)
    fields = {b"spec": CHAIN.encode(), b"state": b"running"}
    for number in range(2):
        record = JobRecord.from_hashes(f"job-{number}", fields, [{}, {}])
        freed.add_parts(JobStage(record, record.first), FreedParts(1), [])
    assert list(freed.take_due()) == []
    clock.now_s += KEPT_S
    with pytest.raises(ServiceUnavailable):
        freed.delete(next(freed.take_due()))
    assert [one.job_id for one in freed.take_due()] == ["job-0", "job-1"]
    assert list(freed.take_due()) == []
