"""What a simulated chain works with: its source, its messages and its stored results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batchmill.columns.lineage import SOURCE_PATH, SOURCE_ROW
from batchmill.jobs.shard import ShardRef, Slice, parse_part
from batchmill.sources.base import End, InputSplit, NextSplit, RowCount, Source, Splitter

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

    from batchmill.ledger import Ledger
    from support.chain_truth import Path


@dataclass
class Broker:
    """The messages, where the roles count them. Some are lost."""

    client: Any
    ledger: Ledger
    rng: random.Random
    loses: float
    published: Callable[[ShardRef], None]
    seen: set[ShardRef] = field(default_factory=set)

    def publish(self, _operator: str, queue: str, ref: ShardRef, *_names: str | None) -> None:
        """As `MessagePublisher` does."""
        if ref not in self.seen:
            self.seen.add(ref)
            self.published(ref)
        if self.rng.random() >= self.loses:
            self.client.lpush(self.ledger._queue_key(queue), ref.attempt_key)

    def report_lost(self, *_: object) -> None:
        """Nobody watches tasks."""


class RootSource(Source):
    """The rows 0, 1, 2, … of a job's source."""

    schema = pa.schema([(SOURCE_ROW, pa.int64())])

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def count(self, cursor: str) -> RowCount:  # noqa: ARG002  # the same from everywhere
        """All of them."""
        return RowCount(self._rows, exact=True)

    def splitter(self, cursor: str = "") -> Splitter:
        """Continue at a row number."""
        return RootSplitter(self._rows, int(cursor or "0"))

    def read(self, slices: Sequence[Slice]) -> pa.Table:
        """These rows, in order."""
        return pa.table({SOURCE_ROW: [row for piece in slices for row in range(piece.start, piece.stop)]})


class RootSplitter(Splitter):
    """Walks along the rows."""

    def __init__(self, rows: int, at: int) -> None:
        self._rows, self._at = rows, at

    def next_split(self, max_rows: int, max_bytes: int) -> NextSplit:
        """See `Splitter`. A row has 10,000 bytes."""
        start, taken = self._at, min(max_rows, max(max_bytes // 10_000, 1), self._rows - self._at)
        if not taken:
            return End()
        self._at += taken
        return InputSplit((Slice(0, start, self._at, taken),), taken, 10_000 * taken, str(self._at))


class Parts:
    """The stored results, by stage, shard and token. Stands for `Workspace`, `ResultStore` and `BlobStore`."""

    def __init__(self) -> None:
        self.paths: dict[tuple[int, Any, int], list[Path]] = {}
        self.deleted: set[tuple[int, Any, int]] = set()

    def read(self, stage: int, slices: Sequence[Slice]) -> list[Path]:
        """The rows of a shard whose input is the results of `stage`."""
        pieces = [(self.paths[(stage, *parse_part(one.part))], one) for one in slices]
        return [path for paths, one in pieces for path in paths[one.start : one.stop]]

    def open_results(self, _job_id: str, _spec: object, stage: int) -> StageParts:
        """See `Workspace`."""
        return StageParts(self, stage)

    def delete_between_stages(self, _job_id: str, spec: Any) -> list[int]:
        """See `Workspace`."""
        last = len(spec.stages) - 1
        self.paths = {key: paths for key, paths in self.paths.items() if key[0] == last}
        return list(range(last))

    def put_table(self, _name: str, _table: pa.Table) -> None:
        """A dead letter: what died is known from the ledger."""


@dataclass(frozen=True)
class StageParts:
    """Those of one stage."""

    parts: Parts
    stage: int

    def delete(self, shard_id: Any, token: int) -> None:
        """Delete a part: once, and never one that was not committed."""
        key = (self.stage, shard_id, token)
        assert key in self.parts.paths, f"{key} is deleted twice"
        del self.parts.paths[key]
        self.parts.deleted.add(key)

    def read(self, slices: Sequence[Slice]) -> pa.Table:
        """The rows as the settler of lost rows takes them."""
        paths = self.parts.read(self.stage, slices)
        return pa.table({SOURCE_ROW: [path[0] for path in paths], SOURCE_PATH: [list(path[1:]) for path in paths]})
