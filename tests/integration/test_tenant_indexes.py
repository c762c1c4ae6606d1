"""What belongs to a tenant while several requests of it are served at the same time, on a real Valkey."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from batchmill.ledger.submission import Submission
from batchmill.settings import CoordinatorSettings
from batchmill.workspace import Workspace
from batchmill_coordinator.admission.uploads import Uploads
from batchmill_coordinator.inspection.inspector import Inspector
from batchmill_coordinator.inspection.pool import inspector_pool
from support.ledger_steps import SPEC

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill.ledger import Ledger

NUMBER = 150


def test_uploads_of_one_tenant_that_begin_at_the_same_time_are_all_open(ledger: Ledger, tmp_path: Path) -> None:
    settings = CoordinatorSettings(blob_root=str(tmp_path), tokens=("secret",))
    uploads = Uploads(ledger, Workspace.open(settings), Inspector(inspector_pool(settings)), settings)

    def begin(_: int) -> None:
        uploads.require(uploads.begin("acme"), "acme")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(begin, range(NUMBER)))


def test_jobs_of_one_tenant_that_are_submitted_while_its_list_is_read_are_all_in_it(ledger: Ledger) -> None:
    def submit(number: int) -> None:
        job = Submission(job_id=f"job-{number}", spec=SPEC, digest="", tenant="acme")
        ledger.jobs.submit(job, max_live_jobs=NUMBER)
        ledger.tenants.live_ids("acme", NUMBER)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(submit, range(NUMBER)))
    assert len(ledger.tenants.live_ids("acme", NUMBER)) == NUMBER
    assert len(ledger.tenants.newest("acme", NUMBER)) == NUMBER
