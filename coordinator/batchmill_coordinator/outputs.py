"""What a job has brought, in input order: for the manifest of its output and for the pages of its results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.shard import ShardId, format_shard_id
from batchmill.sinks import Manifest, ManifestPart

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchmill.job import JobState
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.shards import Settled
    from batchmill.sinks import Sink

LOOK_AHEAD = 256  # shards asked for in one round trip


def settled_shards(ledger: Ledger, record: JobRecord, start: int) -> Iterator[tuple[int, Settled | None]]:
    """The planned shards of a job from number `start` on, each with how it was settled, or None."""
    for first in range(start, record.shards_planned, LOOK_AHEAD):
        numbers = range(first, min(first + LOOK_AHEAD, record.shards_planned))
        found = ledger.shards.settled(record.id, [ShardId((number,)) for number in numbers])
        yield from zip(numbers, found, strict=True)


def write_manifest(record: JobRecord, state: JobState, sink: Sink, ledger: Ledger, finished_at: float) -> None:
    """Publish the manifest of a job's output. Raises `StorageError`."""
    parts = tuple(
        ManifestPart(
            name=sink.part_name(settled.shard_id, settled.token),
            rows=settled.rows,
            bytes=settled.nbytes,
            shard=format_shard_id(settled.shard_id),
        )
        for _, settled in settled_shards(ledger, record, 0)
        if settled is not None and settled.rows > 0
    )
    schema = sink.read(parts[0].name).schema if parts else pa.schema([])
    sink.publish(Manifest.of(record, state, parts, schema, finished_at))
