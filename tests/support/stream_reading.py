"""A job over a stream in a ledger that the test leads: planned step by step, its shards read as workers read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batchmill.jobs.completion import Completion
from batchmill.jobs.shard import ShardId, ShardRef
from batchmill.jobs.streams.offsets import StreamOffsets
from batchmill.streams.opening import open_stream
from batchmill.workspace import Workspace
from batchmill_coordinator.results.dead_rows import DeadRowStore
from batchmill_coordinator.results.stream_retention import StreamRetention
from batchmill_coordinator.roles.stream_keeper import StreamKeeper
from support.ledger_steps import claim, submit
from support.planning import announce_worker, planner_over
from support.records import spec_of
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.jobs.streams.source import AnyStream
    from batchmill.ledger import Ledger
    from batchmill.settings import CoordinatorSettings
    from batchmill.sources.base import EndlessSource, RowsRead
    from batchmill.storage.named_stream_servers import NamedStreamServers
    from batchmill_coordinator.roles.planner import Planner

JOB = "job-1"


class Reading:
    """A ledger with a job over a stream, which this process leads, and a worker that takes many shards."""

    def __init__(
        self,
        ledger: Ledger,
        settings: CoordinatorSettings,
        source: AnyStream,
        slots: int = 1000,
        servers: NamedStreamServers | None = None,
    ) -> None:
        self.ledger = ledger
        self.workspace = Workspace.open(settings)
        if servers is not None:
            self.workspace.stream_servers = servers
        self.source = source
        announce_worker(ledger, shards_at_once=slots)
        submit(ledger, spec=spec_of(operator="echo", source=source))
        self.epoch = ledger.lead("me", 3600)
        self.settings = settings
        self.planner = self.new_planner()
        self.keeper = self.new_keeper()

    def new_keeper(self) -> StreamKeeper:
        retention = StreamRetention(self.ledger, self.workspace, DeadRowStore(self.ledger, self.workspace.blobs))
        return StreamKeeper(
            self.ledger, self.open, retention, self.workspace.blobs, pushed_ttl_s=3600, answer_s=GRACE_S
        )

    def new_planner(self, wake: Callable[[], None] | None = None) -> Planner:
        return planner_over(self.ledger, self.settings, self.open, wake)

    def open(self, _record: Any = None, _stage: int = 0) -> EndlessSource:
        return open_stream(self.ledger, self.workspace, JOB, self.source)

    def step(self) -> None:
        self.planner.step(self.epoch)

    @property
    def offsets(self) -> StreamOffsets:
        return StreamOffsets.parse(self.ledger.jobs.read(JOB).first.cursor)

    def plan(self, rows: int) -> None:
        """Plan until that many rows are planned, and no more."""

        def is_planned() -> bool:
            self.step()
            planned = self.ledger.jobs.read(JOB).first.rows_planned
            assert planned <= rows
            return planned == rows

        until(is_planned, f"the planning of {rows} rows")

    def read_shard(self, number: int) -> RowsRead:
        """Read the rows of a shard as a worker does."""
        shard = self.ledger.shards.read(ShardRef(JOB, 0, ShardId((number,)), 0))
        assert shard is not None
        found = self.open().read_with_faults(shard.slices)
        assert found.table.num_rows == shard.rows
        return found

    def planned_rows(self) -> list[dict[str, Any]]:
        """The rows of all shards in the order of these."""
        count = self.ledger.jobs.read(JOB).first.shards_planned
        return [row for number in range(count) for row in self.read_shard(number).table.to_pylist()]

    def settle(self, number: int, rows: int = 2) -> None:
        ledger = self.ledger
        ref = ledger.shards.queue(JOB, ledger.jobs.read(JOB).first, ShardId((number,)), self.epoch)
        assert ref is not None
        claim(ledger, ref)
        assert ledger.shards.commit(ref, Completion(rows, 0, 10))
