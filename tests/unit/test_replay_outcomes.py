"""Unit tests for what became of rows that a replay has run again."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from batchmill.jobs.dead_letters import DeadRows
from batchmill_coordinator.results.replay_outcomes import ReplayedShard, ReplayReader

NONE_DEAD = DeadRows((), pa.table({}))


def test_rows_of_a_replay_are_found_whose_indices_do_not_ascend_from_shard_to_shard() -> None:
    rows = np.array([70, 71, 75, 10, 12, 40], np.int64)  # as of a stage that runs with the one before it
    shards = [ReplayedShard(None, NONE_DEAD, rows[start : start + 2]) for start in (0, 2, 4)]
    reader = ReplayReader(iter(shards), rows)
    assert reader.of({70, 71, 72}).done == {70, 71}
    assert reader.of({90, 5}).done == set()
    assert reader.of({75, 10}).done == {75, 10}
    assert reader.of({12, 40, 11}).done == {12, 40}
