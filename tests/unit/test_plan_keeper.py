"""The plan keeper, where a round of the sample finds no room."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest.mock import create_autospec

import pyarrow as pa
import pytest

from batchmill.errors import BatchmillError, Conflict, Overloaded, ServiceUnavailable
from batchmill.insights.plans import Plan, PlanState
from batchmill.jobs.files import UploadSource, upload_part
from batchmill.jobs.job import JobRequest
from batchmill.ledger.documents import UNLIMITED, Quota
from batchmill.settings import CoordinatorSettings
from batchmill.workspace import Workspace
from batchmill_coordinator.admission.uploads import Uploads
from batchmill_coordinator.fleet.fleet_view import FleetView
from batchmill_coordinator.inspection.inspector import Inspector
from batchmill_coordinator.planning.record import PlanRecord, read_record
from batchmill_coordinator.roles import plan_keeper
from batchmill_coordinator.roles.clock_guard import ClockGuard
from batchmill_coordinator.roles.plan_keeper import PlanKeeper
from support.hand_clock import HandClock

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill.ledger import Ledger


@pytest.fixture
def settings(valkey_url: str, prefix: str, tmp_path: Path) -> CoordinatorSettings:
    return CoordinatorSettings(redis_url=valkey_url, redis_prefix=prefix, blob_root=str(tmp_path / "blobs"))


def sampled(ledger: Ledger, settings: CoordinatorSettings, epoch: int, error: BatchmillError) -> PlanRecord:
    """Take one step with a plan whose round cannot be submitted because of `error`."""

    def refuse(_request: JobRequest, _tenant: str) -> str:
        raise error

    workspace, inspector = Workspace.open(settings), create_autospec(Inspector, instance=True)
    uploads = Uploads(ledger, workspace, inspector, settings)
    upload = uploads.begin("tenant")
    workspace.blobs.put_table(upload_part(upload, 0), pa.table({"id": [1, 2, 3]}))
    request = JobRequest(operator="echo", source=UploadSource(upload=upload, parts=1))
    plan = Plan(id="plan_1", state=PlanState.SAMPLING, title="echo", created_at=0.0, rows=3)
    record = PlanRecord(plan=plan, request=request, upload=upload, kept=3, read=3)
    ledger.plans.add(plan.id, "tenant", record.model_dump_json(), due_ms=0, quota=Quota(10, UNLIMITED))
    fleet, clocks = FleetView(ledger, HandClock()), create_autospec(ClockGuard, instance=True)
    keeper = PlanKeeper(
        ledger,
        fleet,
        workspace,
        inspector,
        uploads,
        settings.currency,
        refuse,
        create_autospec(ledger.jobs.find),
        clocks,
    )
    keeper.step(epoch)
    found = ledger.plans.find(plan.id)
    assert found is not None
    return read_record(found)


@pytest.mark.parametrize("error", [Overloaded("too many jobs."), Conflict("the key was used.")])
def test_a_plan_whose_round_finds_no_room_waits_and_fails_in_the_end(
    ledger: Ledger, settings: CoordinatorSettings, epoch: int, monkeypatch: pytest.MonkeyPatch, error: BatchmillError
) -> None:
    assert sampled(ledger, settings, epoch, error).plan.state is PlanState.SAMPLING
    ledger.plans.remove("plan_1", "tenant")
    monkeypatch.setattr(plan_keeper, "MAX_SAMPLING_MS", 0)
    plan = sampled(ledger, settings, epoch, error).plan
    assert plan.state is PlanState.FAILED
    assert plan.error is not None
    assert plan.error.code == error.code


def test_a_plan_does_not_fail_because_the_ledger_is_away(
    ledger: Ledger, settings: CoordinatorSettings, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_keeper, "MAX_SAMPLING_MS", 0)
    with pytest.raises(ServiceUnavailable):
        sampled(ledger, settings, epoch, ServiceUnavailable("the ledger is away."))
    found = ledger.plans.find("plan_1")
    assert found is not None
    assert read_record(found).plan.state is PlanState.SAMPLING
