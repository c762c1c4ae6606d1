"""An operator that makes any number of results of a row, through a whole service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchmill.errors import JobCancelled
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import batchmill

ROWS = 500
FREE = 200  # rows that need not wait at the gate


def unfolded(ids: Iterable[int]) -> list[dict[str, Any]]:
    return [{"source_row": n, "id": n, "piece": piece, "of": n} for n in ids for piece in range(n % 4)]


def whole(ids: Iterable[int]) -> list[int]:
    return [n for n in ids if n % 9]


def test_results_come_in_the_order_of_their_rows_and_replayed_rows_take_their_places(
    client: batchmill.Client, tmp_path: Path
) -> None:
    cure = tmp_path / "cure"
    rows = [{"id": n} for n in range(ROWS)]
    job = client.submit("unfold", rows, params={"cure": str(cure)}).wait(timeout=GRACE_S)
    assert list(job.results()) == unfolded(whole(range(ROWS)))
    assert [letter.index for letter in job.dead_letters()] == list(range(0, ROWS, 9))
    cure.touch()
    job.replay().wait(timeout=GRACE_S)
    assert list(job.results()) == unfolded(range(ROWS))
    assert (job.status().rows_done, job.status().rows_dead) == (ROWS, 0)


def test_an_output_that_was_left_unfinished_is_gone_on_with(client: batchmill.Client, tmp_path: Path) -> None:
    source, output, gate, cure = (tmp_path / name for name in ("in.parquet", "out", "gate", "cure"))
    pq.write_table(pa.table({"id": range(ROWS)}), source)
    cure.touch()
    params = {"cure": str(cure), "gate": str(gate), "first": FREE}
    first = client.submit("unfold", source=source, output=output, params=params)
    until(lambda: first.status().shards_done > 0, "a shard done")
    first.cancel()
    gate.touch()
    with pytest.raises(JobCancelled):
        first.wait(timeout=GRACE_S)
    second = client.submit("unfold", source=source, output=output, params=params).wait(timeout=GRACE_S)
    assert second.status().resumed_from == first.id
    assert list(second.results()) == unfolded(range(ROWS))
    parts = sorted(output.glob("part-*"))
    assert sum(pq.read_metadata(part).num_rows for part in parts) == len(unfolded(range(ROWS)))
