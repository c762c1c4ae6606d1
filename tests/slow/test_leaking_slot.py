"""A slot whose operator leaks memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import batchmill
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

OPERATORS = ("mill_operators",)


def test_a_slot_that_leaks_is_drained_and_started_afresh_and_no_row_is_lost_or_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHMILL_RECYCLE_RSS_MB", "500")
    params = {"once": str(tmp_path / "once"), "megabytes": 600}
    with batchmill.local(data_dir=tmp_path / "data", operators=OPERATORS) as client:
        job = client.submit("leaky", rows=[{"id": n} for n in range(60)], params=params, carry=["id"])
        rows = list(job.results())
        assert job.wait(timeout=GRACE_S).status().rows_dead == 0
    assert [row["id"] for row in rows] == list(range(60))
    pids = [row["pid"] for row in rows]
    assert len(set(pids)) == 2
    assert pids == sorted(pids, key=pids.index)
    log = (tmp_path / "data" / "logs" / "worker.log").read_text()
    assert "over the limit of 500 MiB; it is drained and restarted" in log
    assert "ended with exit code" not in log
