"""A week of a stream, by a clock that is set: what the ledger and the blob store hold does not grow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from batchmill.jobs.completion import Completion
from batchmill.jobs.dead_letters import DeadLetter, DeadRows, dead_letters_name
from batchmill.jobs.job import JobForm, StageForm
from batchmill.jobs.streams.source import RedisStream
from batchmill.ledger import Ledger
from batchmill.settings import CoordinatorSettings
from batchmill.streams.opening import open_stream
from batchmill.workspace import Workspace
from batchmill_coordinator.results.dead_rows import DeadRowStore
from batchmill_coordinator.results.freed_results import FreedResults
from batchmill_coordinator.results.inputs import open_input
from batchmill_coordinator.results.pages import parse_cursor, read_page
from batchmill_coordinator.results.stream_retention import StreamRetention
from batchmill_coordinator.roles.buffers import BufferKeeper
from batchmill_coordinator.roles.stream_keeper import StreamKeeper
from support.hand_clock import HandClock
from support.ledger_steps import submit
from support.planning import announce_worker, planner_over

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from batchmill.jobs.shard import ShardRef
    from batchmill.ledger import JobRecord
    from batchmill.sources.base import Source

JOB = "job-1"
HOUR_S = 3600
STEP_S = HOUR_S // 2
ROWS = 6  # in each step
START_S = 1_700_000_000.0


class Week:
    """A job of two stages over a stream, and the roles that keep it, under a clock that is set."""

    def __init__(self, client: redis.Redis, prefix: str, folder: Path, url: str, keep_results_bytes: int) -> None:
        self.clock = HandClock(START_S)
        self.redis, self.prefix, self.key = client, prefix, f"week-{prefix}"
        self.ledger = Ledger(client, prefix, now_ms=int(START_S * 1000))
        settings = CoordinatorSettings(redis_url=url, redis_prefix=prefix, blob_root=str(folder), tokens=("secret",))
        self.workspace = Workspace.open(settings)
        self.source = RedisStream(
            self.key, max_rows=3, keep_results_s=HOUR_S * 6, keep_results_bytes=keep_results_bytes
        )
        announce_worker(self.ledger, shards_at_once=100)
        stages = [StageForm(operator="echo", name="one"), StageForm(operator="echo", name="two")]
        submit(self.ledger, spec=JobForm(stages=stages, source=self.source).spec())
        self.epoch = self.ledger.lead("me", 30 * 24 * HOUR_S)
        dead_rows = DeadRowStore(self.ledger, self.workspace.blobs)
        retention = StreamRetention(self.ledger, self.workspace, dead_rows)
        self.planner = planner_over(self.ledger, settings, self.open)
        self.keeper = StreamKeeper(self.ledger, self.open, retention, self.workspace.blobs, pushed_ttl_s=HOUR_S)
        self.buffers = BufferKeeper(self.ledger, FreedResults(self.ledger, self.workspace, self.clock))
        self.sent = 0

    def open(self, record: JobRecord, stage: int) -> Source:
        if stage == 0:
            return open_stream(self.ledger, self.workspace, JOB, self.source)
        return open_input(self.ledger, self.workspace, record, stage, None)

    def step(self) -> None:
        """Let some rows come, settle all that there is, and let the roles do their work."""
        self.clock.now_s += STEP_S
        self.ledger._store.now_ms = int(self.clock.now_s * 1000)
        for _ in range(ROWS):
            self.redis.xadd(self.key, {"n": str(self.sent)}, id=f"{int(self.clock.now_s * 1000)}-{self.sent + 1}")
            self.sent += 1
        while self._settle_all() or self._plan_next():
            self.buffers.step(self.epoch)
        self.keeper.step(self.epoch)
        self.keeper.step(self.epoch)

    def _plan_next(self) -> bool:
        planned = [stage.shards_planned for stage in self.ledger.jobs.read(JOB).stages]
        for _ in range(2):  # a planner that has just waited for the stream looks again
            self.planner._waits.drop((JOB, 0))
            self.planner.step(self.epoch)
        return planned != [stage.shards_planned for stage in self.ledger.jobs.read(JOB).stages]

    def _settle_all(self) -> int:
        record, settled = self.ledger.jobs.read(JOB), 0
        for stage in record.stages:
            for shard_id in self.ledger.shards.to_queue_of(
                list(self.ledger.jobs.read_stages([(JOB, stage.number)])), 1000, self.ledger.now_ms()
            ).get((JOB, stage.number), []):
                ref = self.ledger.shards.queue(JOB, stage, shard_id, self.epoch)
                assert ref is not None
                self._settle(record, ref)
                settled += 1
        return settled

    def _settle(self, record: JobRecord, ref: ShardRef) -> None:
        claimed = self.ledger.shards.claim(ref, "default", "w1", 10_000, with_job=False)
        assert claimed is not None
        rows = claimed.shard.rows
        dead = 1 if ref.stage == 1 and rows > 1 else 0
        table = pa.table({"n": pa.array(range(rows - dead), pa.int64()), "text": ["x" * 500] * (rows - dead)})
        nbytes = self.workspace.open_results(JOB, record.spec, ref.stage).write(ref.shard_id, ref.token, table)
        if dead:
            self.workspace.blobs.put_table(dead_letters_name(ref), _dead(ref).table())
        kinds = (("ValueError", dead),) if dead else ()
        assert self.ledger.shards.commit(ref, Completion(rows - dead, dead, nbytes, dead_by_type=kinds))

    def size(self) -> dict[str, int]:
        """How much there is of everything."""
        keys = list(self.redis.scan_iter(f"{self.prefix}*", count=1000))
        return {
            "keys": len(keys),
            "bytes in the ledger": sum(int(self.redis.memory_usage(key, samples=0) or 0) for key in keys),
            "blobs": len(self.workspace.blobs.list()),
            "entries in the stream": int(self.redis.xlen(self.key)),
        }


def _dead(ref: ShardRef) -> DeadRows:
    fields: dict[str, Any] = {"operator": "echo", "error_type": "ValueError", "message": "no", "worker": "w1"}
    letter = DeadLetter(stage=ref.stage, index=0, row={}, attempts=1, first_failed_at=1.0, last_failed_at=1.0, **fields)
    return DeadRows((letter,), pa.table({"n": [0]}))


@pytest.mark.parametrize("keep_results_bytes", [1024**3, 1024**2])
def test_nothing_of_a_stream_grows_in_a_week(
    redis_client: redis.Redis, prefix: str, tmp_path: Path, valkey_url: str, keep_results_bytes: int
) -> None:
    week = Week(redis_client, prefix, tmp_path, valkey_url, keep_results_bytes)
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
    record = week.ledger.jobs.read(JOB)
    assert (record.first.rows_done, record.last.rows_dead > 0) == (week.sent, True)
    results = week.workspace.open_results(JOB, record.spec, 1)
    page = read_page(week.ledger, record, 1, results, parse_cursor(""))
    assert 0 < page.rows < week.sent / 4, "only the latest are kept"
