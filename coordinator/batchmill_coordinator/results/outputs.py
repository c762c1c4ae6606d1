"""The results of a job in input order: for the manifest of its output and for the pages of its results."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pyarrow as pa

from batchmill.columns import encode_schema
from batchmill.errors import DamagedData, NotFound
from batchmill.jobs.shard import ShardId, format_shard_id
from batchmill.jobs.stages import last_stage
from batchmill.sinks import Manifest, columns_of
from batchmill.stage_results import settled_shards
from batchmill.workspace import table_from_stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from batchmill.jobs.job import JobState
    from batchmill.jobs.unfinished import UnfinishedWork
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.ledger.formats.settlement import Settled
    from batchmill.sinks import InputFingerprint, ManifestPart, Publisher, ResultStore

MAX_READS_AT_ONCE = 16  # of records of parts


def results_of(
    ledger: Ledger, record: JobRecord, stage: int, results: ResultStore, shards: Sequence[Settled]
) -> list[pa.Table]:
    """Read the results of settled shards of a stage that have rows.

    Raises `StorageError`; `DamagedData` and `NotFound` name the first shard whose results are damaged or gone, and its
    rows.
    """
    inline = ledger.results.inline_results(record.id, stage, [settled.shard_id for settled in shards])
    return [
        table_from_stream(stream) if stream is not None else _stored(record, results, settled)
        for settled, stream in zip(shards, inline, strict=True)
    ]


def _stored(record: JobRecord, results: ResultStore, part: Settled) -> pa.Table:
    try:
        return results.read(part.shard_id, part.token)
    except (DamagedData, NotFound) as error:
        shard, last_row = format_shard_id(part.shard_id), part.first_row + part.rows + part.rows_dead - 1
        rows = f"the rows {part.first_row:,} to {last_row:,} of {record.id} (shard {shard})"
        raise type(error)(
            f"the results of {rows} cannot be read: {error.message}",
            hint=f"Restore the file from a copy, or compute it again: `batchmill redo {record.id}`.",
            job=record.id,
            shard=shard,
            first_row=part.first_row,
            last_row=last_row,
            path=str(error.details.get("path", "")),
        ) from error


def manifest_of(
    ledger: Ledger,
    record: JobRecord,
    publisher: Publisher,
    results: ResultStore,
    state: JobState,
    finished_at: float,
    unfinished: tuple[InputFingerprint, UnfinishedWork] | None = None,
    without_rows: tuple[ManifestPart, ...] = (),
) -> Manifest:
    """Make the manifest of a job that ends in `state`. Raises `NotFound` or `StorageError`.

    results: those of its last stage, which are the output's. finished_at: in seconds since the epoch.
    unfinished: what the job was made from and what it leaves undone, for one that resumes it.
    without_rows: the parts of a job without results, which hold its schema.
    """
    spec = record.spec
    shards = [
        part for shard in settled_shards(ledger, record, last_stage(spec)) for part in shard.parts if part.results > 0
    ]
    with ThreadPoolExecutor(MAX_READS_AT_ONCE) as pool:
        parts = tuple(
            pool.map(lambda part: publisher.part(part.shard_id, part.token, part.results, part.nbytes), shards)
        )
    if parts:
        schema = results.schema(shards[0].shard_id, shards[0].token)
    else:
        parts = without_rows
        schema = results.schema(ShardId((0,)), 0) if parts else pa.schema([])
    origin, rest = unfinished or (None, None)
    return Manifest(
        job=record.id,
        state=state,
        operator=spec.last.operator,
        params=spec.last.params,
        format=spec.output.format if spec.output else "arrow",
        rows=sum(part.rows for part in parts),
        rows_dead=record.rows_dead,
        columns=columns_of(schema),
        arrow_schema=encode_schema(schema),
        parts=parts,
        created_at=record.created_at / 1000,
        finished_at=finished_at,
        origin=origin,
        rest=rest,
    )
