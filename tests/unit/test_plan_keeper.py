"""The plan keeper, where a round of the sample finds no room."""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING
from unittest.mock import create_autospec

import pyarrow as pa
import pytest

from batchmill.errors import BatchmillError, Conflict, InvalidSource, Overloaded, ServiceUnavailable
from batchmill.insights.plans import Plan, PlanState
from batchmill.jobs.files import UploadSource, upload_part
from batchmill.jobs.job import JobRequest
from batchmill.jobs.webhooks.spec import WebhookSpec
from batchmill.ledger.documents import UNLIMITED, Quota
from batchmill.settings import CoordinatorSettings
from batchmill.workspace import Workspace
from batchmill_coordinator.admission.uploads import Uploads
from batchmill_coordinator.fleet.fleet_view import FleetView
from batchmill_coordinator.inspection.inspector import Inspector
from batchmill_coordinator.planning.record import PlanRecord, read_record
from batchmill_coordinator.roles import plan_keeper
from batchmill_coordinator.roles.clock_guard import ClockGuard
from batchmill_coordinator.roles.plan_keeper import PlanKeeper, _round_request
from support.hand_clock import HandClock
from support.waiting import GRACE_S, until

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
        settings.shard_target_s,
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


def test_a_source_that_is_slow_to_sample_delays_no_other_plan(
    ledger: Ledger, settings: CoordinatorSettings, epoch: int
) -> None:
    workspace, inspector = Workspace.open(settings), create_autospec(Inspector, instance=True)
    uploads = Uploads(ledger, workspace, inspector, settings)
    begun, may_end, failed = Event(), Event(), Event()

    def sample(*_: object) -> None:
        begun.set()
        may_end.wait()
        failed.set()
        raise InvalidSource("it is damaged.")

    def submit(_request: JobRequest, _tenant: str) -> str:
        raise Conflict("reached.")

    inspector.sample.side_effect = sample
    upload = uploads.begin("tenant")
    workspace.blobs.put_table(upload_part(upload, 0), pa.table({"id": [1, 2, 3]}))
    for plan_id, sampled_into in (("plan_slow", None), ("plan_other", None), ("plan_sampled", upload)):
        request = JobRequest(operator="echo", source=UploadSource(upload=upload, parts=1))
        plan = Plan(id=plan_id, state=PlanState.SAMPLING, title="echo", created_at=0.0, rows=3)
        record = PlanRecord(plan=plan, request=request, upload=sampled_into, kept=3, read=3)
        ledger.plans.add(plan_id, "tenant", record.model_dump_json(), due_ms=0, quota=Quota(10, UNLIMITED))
    submitted = create_autospec(submit, side_effect=submit)
    keeper = PlanKeeper(
        ledger, FleetView(ledger, HandClock()), workspace, inspector, uploads, settings.currency,
        settings.shard_target_s, submitted,
        create_autospec(ledger.jobs.find), create_autospec(ClockGuard, instance=True),
    )  # fmt: skip
    keeper.step(epoch)  # it returns while the sample is read
    assert begun.wait(GRACE_S)
    submitted.assert_called_once()
    assert inspector.sample.call_count == 1  # the other one waits for its turn
    may_end.set()
    assert failed.wait(GRACE_S)

    def states() -> list[PlanState]:
        found = [ledger.plans.find(plan_id) for plan_id in ("plan_slow", "plan_other")]
        return [read_record(one).plan.state for one in found if one is not None]

    def both_failed() -> bool:
        keeper.step(epoch)
        return states() == [PlanState.FAILED] * 2

    until(both_failed, "the end of both plans")


def test_a_tenant_with_many_plans_holds_up_no_other(ledger: Ledger, settings: CoordinatorSettings, epoch: int) -> None:
    workspace, inspector = Workspace.open(settings), create_autospec(Inspector, instance=True)
    uploads = Uploads(ledger, workspace, inspector, settings)
    of_tenant = {tenant: uploads.begin(tenant) for tenant in ("many", "one")}
    sampled = []

    def describe(source: UploadSource) -> None:
        sampled.append(source.upload)
        raise InvalidSource("it is damaged.")

    inspector.describe_upload.side_effect = describe
    for number, tenant in enumerate(["many"] * 5 + ["one"]):
        request = JobRequest(operator="echo", source=UploadSource(upload=of_tenant[tenant], parts=1))
        plan = Plan(id=f"plan_{number}", state=PlanState.SAMPLING, title="echo", created_at=0.0)
        body = PlanRecord(plan=plan, request=request).model_dump_json()
        ledger.plans.add(plan.id, tenant, body, due_ms=number, quota=Quota(10, UNLIMITED))
    keeper = PlanKeeper(
        ledger, FleetView(ledger, HandClock()), workspace, inspector, uploads, settings.currency,
        settings.shard_target_s, create_autospec(ledger.jobs.find), create_autospec(ledger.jobs.find),
        create_autospec(ClockGuard, instance=True),
    )  # fmt: skip

    def all_sampled() -> bool:
        keeper.step(epoch)
        return len(sampled) == 6

    until(all_sampled, "the samples of all plans")
    assert sampled.index(of_tenant["one"]) == 1


def test_the_rounds_of_a_sample_send_no_messages_to_the_receivers_of_the_job() -> None:
    request = JobRequest(
        operator="echo", source=UploadSource(upload="upl_1", parts=1), webhooks=[WebhookSpec(name="ops")]
    )
    plan = Plan(id="plan_1", state=PlanState.SAMPLING, title="echo", created_at=0.0, rows=3)
    assert _round_request(PlanRecord(plan=plan, request=request), "upl_2").webhooks == []
