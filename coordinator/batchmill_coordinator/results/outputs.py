"""What a job has brought, in input order: for the manifest of its output and for the pages of its results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.ledger.settlement import SplitUp
from batchmill.shard import ShardId, format_shard_id
from batchmill.sinks import Manifest, ManifestPart, columns_of
from batchmill.workspace import table_from_stream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from batchmill.job import JobState
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.settlement import Settled
    from batchmill.sinks import Origin, Sink
    from batchmill.unfinished import UnfinishedWork

LOOK_AHEAD = 256  # shards asked for in one round trip


@dataclass(frozen=True, slots=True)
class SettledShard:
    """A planned shard, or the shards that it was split into."""

    number: int
    parts: tuple[Settled, ...]  # those that are settled, in input order
    is_whole: bool  # whether none is missing


def settled_shards(ledger: Ledger, record: JobRecord, start: int) -> Iterator[SettledShard]:
    """The planned shards of a job from number `start` on, as far as they are settled."""
    for first in range(start, record.shards_planned, LOOK_AHEAD):
        numbers = range(first, min(first + LOOK_AHEAD, record.shards_planned))
        found = ledger.results.settled(record.id, [ShardId((number,)) for number in numbers])
        for number, settled in zip(numbers, found, strict=True):
            parts = list(_leaves(ledger, record, settled))
            yield SettledShard(number, tuple(part for part in parts if part), None not in parts)


def _leaves(ledger: Ledger, record: JobRecord, settled: Settled | SplitUp | None) -> Iterator[Settled | None]:
    """A shard that is not split, or what became of the halves of one that is, in input order."""
    if isinstance(settled, SplitUp):
        for child in ledger.results.settled(record.id, settled.children()):
            yield from _leaves(ledger, record, child)
    else:
        yield settled


def write_manifest(
    record: JobRecord,
    state: JobState,
    sink: Sink,
    ledger: Ledger,
    finished_at: float,
    left: tuple[Origin, UnfinishedWork] | None,
) -> None:
    """Publish the manifest of a job's output, with what it leaves undone. Raises `StorageError`."""
    parts = manifest_parts(record, sink, ledger)
    origin, rest = left or (None, None)
    sink.publish(manifest_of(record, state, parts, schema_of(sink, parts), finished_at, origin, rest))


def manifest_of(
    record: JobRecord,
    state: JobState,
    parts: tuple[ManifestPart, ...],
    schema: pa.Schema,
    finished_at: float,
    origin: Origin | None = None,
    rest: UnfinishedWork | None = None,
) -> Manifest:
    """The manifest of a job that ends in `state`. `finished_at` is in seconds since the epoch."""
    spec = record.spec
    return Manifest(
        job=record.id,
        state=state,
        operator=spec.operator,
        params=spec.params,
        format=spec.output.format if spec.output else "arrow",
        rows=sum(part.rows for part in parts),
        rows_dead=record.rows_dead,
        columns=columns_of(schema),
        parts=parts,
        created_at=record.created_at / 1000,
        finished_at=finished_at,
        origin=origin,
        rest=rest,
    )


def manifest_parts(record: JobRecord, sink: Sink, ledger: Ledger) -> tuple[ManifestPart, ...]:
    """The files that make up a job's output, in input order."""
    return tuple(
        ManifestPart(
            name=sink.part_name(settled.shard_id, settled.token),
            rows=settled.results,
            bytes=settled.nbytes,
            shard=format_shard_id(settled.shard_id),
        )
        for shard in settled_shards(ledger, record, 0)
        for settled in shard.parts
        if settled.results > 0
    )


def schema_of(sink: Sink, parts: Sequence[ManifestPart]) -> pa.Schema:
    """The schema of an output: of its first part; without parts, no columns."""
    return sink.read(parts[0].name).schema if parts else pa.schema([])


def results_of(ledger: Ledger, record: JobRecord, sink: Sink, shards: Sequence[Settled]) -> list[pa.Table]:
    """The results of settled shards that have rows. Raises `NotFound` or `StorageError`."""
    inline = ledger.results.inline_results(record.id, [settled.shard_id for settled in shards])
    return [
        table_from_stream(stream) if stream is not None else sink.read(sink.part_name(settled.shard_id, settled.token))
        for settled, stream in zip(shards, inline, strict=True)
    ]
