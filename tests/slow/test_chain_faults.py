"""Jobs of several stages whose processes and ledger fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from batchmill import Stage
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.cluster import Cluster


def test_a_row_that_kills_its_process_holds_no_full_buffer_forever(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    running = cluster(SHARD_TARGET_S=0.3).start(slots=(2,))
    source, victim = tmp_path / "in.parquet", 3
    pq.write_table(pa.table({"id": range(2_000), "text": [f"{row}".ljust(8_000) for row in range(2_000)]}), source)
    stages = [Stage("killer", victim=victim, name="first", buffer="1MiB"), Stage("echo", name="last")]
    job = running.clients["a"].submit(source=source, stages=stages)
    until(lambda: job.status().stages["last"].rows_done > 0, "the first results behind the row")
    assert [row["id"] for row in job.wait(300).results()] == [row for row in range(2_000) if row != victim]
    assert [letter.path for letter in job.dead_letters()] == [(victim,)]
