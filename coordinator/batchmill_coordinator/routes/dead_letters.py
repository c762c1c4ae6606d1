"""Dead letters over HTTP: the rows that a job gave up on, and why."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from batchmill.dead_letters import DeadLetter, dead_letters_name, decode_dead_letters
from batchmill.ledger import JobRecord
from batchmill.shard import ShardRef, format_shard_id
from batchmill_coordinator.outputs import settled_shards
from batchmill_coordinator.results import parse_cursor
from batchmill_coordinator.routes.service import CurrentService, json_response
from batchmill_coordinator.service import Service

router = APIRouter(prefix="/v1/jobs", tags=["dead letters"])


class DeadLetterPage(BaseModel):
    """Some of a job's dead letters, in input order, and how many rows died of which error in all.

    `next` goes into `cursor` for the page after this one; null behind the last.
    """

    dead_letters: list[DeadLetter]
    counts: dict[str, int]
    next: str | None


@router.get("/{job_id}/dead-letters", response_model=DeadLetterPage)
def dead_letters(
    job_id: str, service: CurrentService, cursor: str = "", limit: Annotated[int, Query(ge=1, le=10_000)] = 1000
) -> Response:
    """The rows that a job gave up on so far; a page takes whole shards until it has about `limit` letters."""
    record = service.ledger.jobs.read(job_id)
    letters: list[DeadLetter] = []
    following: str | None = None
    if record.rows_dead:
        letters, following = _collect(service, record, cursor, limit)
    counts = service.ledger.jobs.dead_counts(job_id)
    return json_response(DeadLetterPage(dead_letters=letters, counts=counts, next=following))


def _collect(service: Service, record: JobRecord, cursor: str, limit: int) -> tuple[list[DeadLetter], str | None]:
    start = parse_cursor(cursor)
    letters: list[DeadLetter] = []
    for shard in settled_shards(service.ledger, record, start[0]):
        for part in shard.parts:
            if part.rows_dead == 0 or part.shard_id < start:
                continue
            if len(letters) >= limit:
                return letters, format_shard_id(part.shard_id)
            name = dead_letters_name(ShardRef(record.id, 0, part.shard_id, part.token))
            letters += decode_dead_letters(service.workspace.blobs.get(name).to_pybytes())
    return letters, None
