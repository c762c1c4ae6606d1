"""A stream by a clock that is set: a job of two stages over it, and the roles that plan it and keep it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.jobs.completion import Completion
from batchmill.jobs.dead_letters import DeadLetter, DeadRows, dead_letters_name
from batchmill.jobs.job import DEFAULT_TENANT, JobForm, StageForm
from batchmill.jobs.shard import part_of
from batchmill.jobs.sink import PUBLISH_OPERATOR, STORE_OPERATOR
from batchmill.jobs.stateful.step import state_name
from batchmill.jobs.streams.source import RedisStream
from batchmill.ledger import Ledger
from batchmill.ledger.formats.encodings import SourceRowBorders
from batchmill.settings import CoordinatorSettings
from batchmill.streams.opening import open_stream
from batchmill.workspace import Workspace
from batchmill_coordinator.indexes.catalog import Claim, IndexCatalog
from batchmill_coordinator.indexes.publication import IndexPublication
from batchmill_coordinator.indexes.targets import target_of
from batchmill_coordinator.results.dead_rows import DeadRowStore
from batchmill_coordinator.results.freed_results import FreedResults
from batchmill_coordinator.results.inputs import open_input
from batchmill_coordinator.results.stream_retention import StreamRetention
from batchmill_coordinator.results.stream_rolls import StreamRolls
from batchmill_coordinator.roles.buffers import BufferKeeper
from batchmill_coordinator.roles.stream_keeper import StreamKeeper
from batchmill_coordinator.roles.streams.roller import Roller
from support.hand_clock import HandClock
from support.ledger_steps import submit
from support.planning import announce_worker, planner_over
from support.waiting import GRACE_S

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from batchmill.jobs.files import OutputSpec
    from batchmill.jobs.shard import ShardId, ShardRef
    from batchmill.jobs.sink import SinkSpec
    from batchmill.ledger import JobRecord
    from batchmill.sources.base import Source

JOB = "job-1"
HOUR_S = 3600
STEP_S = HOUR_S // 2
ROWS = 6  # in each step
START_S = 1_700_000_000.0


class Week:
    """A job of two stages over a stream, and the roles that keep it, under a clock that is set.

    keep_results_s, keep_results_bytes: for how long results are kept, and how many bytes of them. keeps_state: whether
        the second stage does. groups: of keys, which it divides them into. output, sink: of the job; a sink adds its
        two stages. max_rows: of a shard.
    """

    def __init__(
        self,
        client: redis.Redis,
        prefix: str,
        folder: Path,
        url: str,
        keep_results_s: float,
        *,
        keep_results_bytes: int = 1024**3,
        keeps_state: bool = False,
        groups: int = 1,
        output: OutputSpec | None = None,
        sink: SinkSpec | None = None,
        max_rows: int = 3,
    ) -> None:
        self.clock = HandClock(START_S)
        self.redis, self.prefix, self.key = client, prefix, f"week-{prefix}"
        self.ledger = Ledger(client, prefix, now_ms=int(START_S * 1000))
        settings = CoordinatorSettings(
            redis_url=url, redis_prefix=prefix, blob_root=str(folder), tokens=("secret",), unrestricted=True
        )
        self.workspace = Workspace.open(settings)
        self.source = RedisStream(
            self.key, max_rows=max_rows, keep_results_s=keep_results_s, keep_results_bytes=keep_results_bytes
        )
        stages = [StageForm(operator="echo", name="one"), StageForm(operator="echo", name="two")]
        spec = JobForm(stages=stages, source=self.source, output=output, sink=sink).spec()
        params = {"groups": groups} if groups > 1 else {}
        second = spec.stages[1].model_copy(update={"keeps_state": keeps_state, "params": params})
        submit(self.ledger, spec=spec.model_copy(update={"stages": (spec.stages[0], second, *spec.stages[2:])}))
        self.epoch = self.ledger.lead("me", 30 * 24 * HOUR_S)
        dead_rows = DeadRowStore(self.ledger, self.workspace.blobs)
        retention = StreamRetention(self.ledger, self.workspace, dead_rows)
        self.planner = planner_over(self.ledger, settings, self.open, clock=self.clock)
        self.keeper = StreamKeeper(
            self.ledger, self.open, retention, self.workspace.blobs, pushed_ttl_s=HOUR_S, answer_s=GRACE_S
        )
        self.buffers = BufferKeeper(self.ledger, FreedResults(self.ledger, self.workspace, self.clock))
        self.rolls = StreamRolls(self.ledger, self.workspace, 1000, self.clock)
        self.catalog = IndexCatalog(self.workspace.blobs)
        published = IndexPublication(self.ledger, self.workspace, self.catalog, self.clock)
        self.roller = Roller(self.ledger, self.rolls, published)
        if sink is not None:
            assert self.catalog.put_claim(target_of(sink, self.workspace.locations), _claim(sink), None)
        rolled = self.workspace.open_rolled(JOB, spec)
        if rolled is not None:
            rolled.take(None)
        self.sent = 0

    def open(self, record: JobRecord, stage: int) -> Source:
        if stage == 0:
            return open_stream(self.ledger, self.workspace, JOB, self.source)
        return open_input(self.ledger, self.workspace, record, stage, None)

    def step(self, rows: int = ROWS) -> None:
        """Let rows come, settle all that there is, and let the roles do their work."""
        self.arrive(rows)
        while self._settle_all() or self.plan():
            self.buffers.step(self.epoch)
        self.roller.step(self.epoch)
        self.keeper.step(self.epoch)
        self.keeper.step(self.epoch)

    def arrive(self, rows: int = ROWS) -> None:
        """Let rows come."""
        self.clock.now_s += STEP_S
        self.ledger._store.now_ms = int(self.clock.now_s * 1000)
        announce_worker(self.ledger, shards_at_once=100)
        for _ in range(rows):
            self.redis.xadd(self.key, {"n": str(self.sent)}, id=f"{int(self.clock.now_s * 1000)}-{self.sent + 1}")
            self.sent += 1

    def plan(self) -> bool:
        """Plan what there is; return whether there was anything."""
        planned = [stage.shards_planned for stage in self.ledger.jobs.read(JOB).stages]
        for _ in range(2):  # a planner that has just waited for the stream looks again
            self.planner._waits.drop((JOB, 0))
            self.planner.step(self.epoch)
        return planned != [stage.shards_planned for stage in self.ledger.jobs.read(JOB).stages]

    def to_settle(self, stage: int) -> list[ShardId]:
        """Return the shards of a stage that are planned."""
        one = list(self.ledger.jobs.read_stages([(JOB, stage)]))
        return self.ledger.shards.to_queue_of(one, 1000, self.ledger.now_ms()).get((JOB, stage), [])

    def settle(self, number: int, shard_id: ShardId) -> None:
        """Settle a shard of a stage."""
        record = self.ledger.jobs.read(JOB)
        ref = self.ledger.shards.queue(JOB, record.stages[number], shard_id, self.epoch)
        assert ref is not None
        self._settle(record, ref)

    def _settle_all(self) -> int:
        stages = self.ledger.jobs.read(JOB).stages
        found = [(stage.number, shard_id) for stage in stages for shard_id in self.to_settle(stage.number)]
        for number, shard_id in found:
            self.settle(number, shard_id)
        return len(found)

    def _settle(self, record: JobRecord, ref: ShardRef) -> None:
        claimed = self.ledger.shards.claim(ref, "default", "w1", 10_000, with_job=False)
        assert claimed is not None
        rows = claimed.shard.rows
        dead = 1 if ref.stage == 1 and rows > 1 else 0
        table = _made_by(record.spec.stages[ref.stage].operator, rows - dead)
        nbytes = self.workspace.open_results(JOB, record.spec, ref.stage).write(ref.shard_id, ref.token, table)
        if dead:
            self.workspace.blobs.put_table(dead_letters_name(ref), _dead(ref).table())
        if record.spec.stages[ref.stage].keeps_state:
            self.workspace.blobs.put(state_name(JOB, ref.stage, part_of(ref.shard_id, ref.token)), b"state")
        kinds = (("ValueError", dead),) if dead else ()
        results = None if table.num_rows == rows - dead else table.num_rows
        borders = ""
        if record.spec.sink is not None and ref.stage < 2 and rows > dead:
            first = claimed.shard.first_row
            borders = SourceRowBorders.of(range(first, first + rows - dead), range(rows - dead)).write()
        done = Completion(rows - dead, dead, nbytes, dead_by_type=kinds, results=results, borders=borders)
        assert self.ledger.shards.commit(ref, done)

    def size(self) -> dict[str, int]:
        """How much there is of everything."""
        keys = list(self.redis.scan_iter(f"{self.prefix}*", count=1000))
        return {
            "keys": len(keys),
            "bytes in the ledger": sum(int(self.redis.memory_usage(key, samples=0) or 0) for key in keys),
            "blobs": len(self.workspace.blobs.list()),
            "entries in the stream": int(self.redis.xlen(self.key)),
        }


def _claim(sink: SinkSpec) -> Claim:
    return Claim(tenant=DEFAULT_TENANT, name=sink.index_name, job=JOB, origin=JOB)


def _made_by(operator: str, rows: int) -> pa.Table:
    """Return what a shard of so many rows has as results."""
    if operator == STORE_OPERATOR:
        return pa.table({"receipt": ["a receipt"]})
    if operator == PUBLISH_OPERATOR:
        return pa.table({"rows": [rows], "dimension": [3], "index_kind": ["none"]})
    return pa.table({"n": pa.array(range(rows), pa.int64()), "text": ["x" * 500] * rows})


def _dead(ref: ShardRef) -> DeadRows:
    fields: dict[str, Any] = {"operator": "echo", "error_type": "ValueError", "message": "no", "worker": "w1"}
    letter = DeadLetter(stage=ref.stage, index=0, row={}, attempts=1, first_failed_at=1.0, last_failed_at=1.0, **fields)
    return DeadRows((letter,), pa.table({"n": [0]}))
