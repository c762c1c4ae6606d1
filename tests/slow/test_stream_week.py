"""A week of a stream, by a clock that is set: what the ledger and the blob store hold does not grow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest

from batchmill.jobs.files import OutputSpec
from batchmill.jobs.job import DEFAULT_TENANT
from batchmill.jobs.sink import SinkSpec
from batchmill_coordinator.results.pages import parse_cursor, read_page
from support.stream_week import HOUR_S, JOB, Week

if TYPE_CHECKING:
    from pathlib import Path

    import redis


@pytest.mark.parametrize(("keep_results_bytes", "has_output"), [(1024**3, False), (1024**2, False), (1024**2, True)])
def test_nothing_of_a_stream_grows_in_a_week_but_its_output(
    redis_client: redis.Redis,
    prefix: str,
    tmp_path: Path,
    valkey_url: str,
    keep_results_bytes: int,
    has_output: bool,
) -> None:
    output = OutputSpec(path=str(tmp_path / "out")) if has_output else None
    week = Week(
        *(redis_client, prefix, tmp_path / "blobs", valkey_url, HOUR_S * 6),
        keep_results_bytes=keep_results_bytes,
        output=output,
    )
    _expect_no_growth(week)
    record = week.ledger.jobs.read(JOB)
    assert (record.first.rows_done, record.last.rows_dead > 0) == (week.sent, True)
    results = week.workspace.open_results(JOB, record.spec, 1)
    page = read_page(week.ledger, record, 1, results, parse_cursor(""))
    assert 0 < page.rows < week.sent / 4, "only the latest are kept"
    if has_output:
        week.rolls.close(record, week.epoch)
        assert sum(pq.read_metadata(file).num_rows for file in (tmp_path / "out").iterdir()) == record.last.rows_done


def test_nothing_of_a_stream_grows_in_a_week_but_its_sink(
    redis_client: redis.Redis, prefix: str, tmp_path: Path, valkey_url: str
) -> None:
    sink = SinkSpec(to=str(tmp_path / "documents.lance"), mode="upsert", id="n")
    week = Week(*(redis_client, prefix, tmp_path / "blobs", valkey_url, HOUR_S * 6), sink=sink)
    _expect_no_growth(week)
    record = week.ledger.jobs.read(JOB)
    assert [stage.rows_done > 0 for stage in record.stages] == [True] * 4
    assert record.last.shards_done == record.last.shards_planned == record.stages[2].shards_done
    known = week.catalog.find(DEFAULT_TENANT, "documents")
    assert known is not None
    assert known.published_at > week.clock.now_s - HOUR_S


def _expect_no_growth(week: Week) -> None:
    """Let a day pass, then the rest of a week."""
    for _ in range(48):
        week.step()
    after_a_day = week.size()
    for _ in range(6 * 48):
        week.step()
    after_a_week = week.size()
    assert after_a_week["keys"] <= after_a_day["keys"]
    assert after_a_week["blobs"] <= after_a_day["blobs"]
    assert after_a_week["bytes in the ledger"] <= after_a_day["bytes in the ledger"] * 1.1
    assert after_a_week["entries in the stream"] == 0
