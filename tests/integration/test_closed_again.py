"""An output that is closed again, because the leader ended between its manifest and the ledger, stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill import Client
from support.cluster import manifest
from support.live_service import TOKEN, LiveService

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def service(valkey_url: str, tmp_path: Path) -> Iterator[LiveService]:
    made = LiveService(valkey_url, "closed-again:", tmp_path / "service").start()
    yield made
    made.stop()


@pytest.mark.parametrize("fate", ["completed", pytest.param("cancelled", marks=pytest.mark.slow)])
def test_a_job_without_rows_keeps_its_empty_part(
    service: LiveService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fate: str
) -> None:
    jobs, ended = service.service.ledger.jobs, []
    finish = jobs.finish

    def late_finish(record: Any, state: Any, epoch: int) -> bool:
        ended.append(state)
        return len(ended) > 1 and finish(record, state, epoch)

    monkeypatch.setattr(jobs, "finish", late_finish)
    service.holds_jobs = fate == "cancelled"
    schema = pa.schema([("id", pa.int64())])
    rows = schema.empty_table() if fate == "completed" else pa.table({"id": [1, 2]}, schema=schema)
    with Client(service.url, TOKEN) as client:
        job = client.submit("echo", rows, output={"path": str(tmp_path / "out"), "format": "parquet"})
        if fate == "cancelled":
            job.cancel()
        service.ended(job.id)
        assert job.status().state.value == fate
    assert ended == [fate, fate]
    (part,) = manifest(tmp_path / "out")["parts"]
    assert pq.read_table(tmp_path / "out" / part["name"]).schema == schema
