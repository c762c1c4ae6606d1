"""The files of a batch whose job has ended: answers in one, errors in another, in the order of its lines.

Three streams in the same order are read beside each other: the rows of the job, its results, and its failed rows. A
request is answered if all of its rows have results, and failed if one of them failed; of the others nothing was run, or
not all. A file that is written again, because a coordinator died, has the same content under the same id.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from typing import IO, TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from pydantic_core import to_json

from batchmill.jobs.files import upload_part
from batchmill.jobs.job import JobState
from batchmill.jobs.stages import FIRST_STAGE
from batchmill.stage_results import settled_shards
from batchmill_coordinator.batches.record import BatchUsage, InputDetails, OutputDetails, RequestCounts
from batchmill_coordinator.endpoints.base import Answered, BodyFault, Usage
from batchmill_coordinator.endpoints.known import endpoint_of
from batchmill_coordinator.inspection.batch_lines import CUSTOM_ID, FORM, LINE, OWN
from batchmill_coordinator.results.outputs import results_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from batchmill.jobs.dead_letters import DeadLetter
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.workspace import Workspace
    from batchmill_coordinator.batches.files import Files
    from batchmill_coordinator.batches.record import Batch, BatchRecord
    from batchmill_coordinator.endpoints.base import Endpoint
    from batchmill_coordinator.results.dead_rows import DeadRowStore

T = TypeVar("T")
CHUNK_ROWS = 1024

NEVER_RUN = {
    JobState.EXPIRED: (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    JobState.CANCELLED: ("batch_cancelled", "This request was not executed, because the batch was cancelled."),
}
LOST = ("batch_failed", "This request was not executed, because the batch failed.")

ROW_FAULTS = {
    "ContextTooLong": (400, "context_length_exceeded"),
    "RowError": (400, "invalid_request"),
    "MissingValue": (400, "invalid_request"),
    "Refused": (400, "content_filter"),
    "OutputTruncated": (400, "output_truncated"),
    "InvalidOutput": (400, "invalid_output"),
    "too_large": (413, "too_large"),
    "RateLimited": (429, "rate_limit_exceeded"),
}
"""The status and the code of a failed row by the type of its error; another one is the operator's fault."""


class Request(NamedTuple):
    """A request as the rows of the job have it. rows: how many it has."""

    line: int
    custom_id: str
    form: dict[str, Any]
    rows: int


class ByLine(Generic[T]):
    """Items in the order of their lines, taken line by line."""

    def __init__(self, items: Iterator[tuple[int, T]]) -> None:
        self._items = items
        self._head = next(items, None)

    def take(self, line: int) -> list[T]:
        """Return the items of a line; those of the lines before are passed over."""
        found: list[T] = []
        while self._head is not None and self._head[0] <= line:
            if self._head[0] == line:
                found.append(self._head[1])
            self._head = next(self._items, None)
        return found


@dataclass(slots=True)
class Written:
    """What became of the requests, and the files with it, without those that would be empty."""

    counts: RequestCounts
    usage: BatchUsage
    output_file_id: str | None = None
    error_file_id: str | None = None


@dataclass(slots=True)
class _Tally:
    """Counts of the requests that were written so far, and the tokens of their answers."""

    answered: int = 0
    failed: int = 0
    usage: Usage = field(default_factory=Usage)


class BatchWriter:
    """Writes the files of batches."""

    def __init__(self, ledger: Ledger, workspace: Workspace, dead_rows: DeadRowStore, files: Files) -> None:
        self._ledger = ledger
        self._workspace = workspace
        self._dead_rows = dead_rows
        self._files = files

    def write(self, record: BatchRecord, tenant: str, job: JobRecord) -> Written:
        """Write the files of a batch whose job has ended. Raises `StorageError`, or `NotFound` if results are gone."""
        batch, tally = record.batch, _Tally()
        endpoint = endpoint_of(batch.endpoint)
        if endpoint is None:
            raise AssertionError(f"the batch {batch.id} has no endpoint")
        results, dead = ByLine(self._results(job)), ByLine(self._dead(job))
        with ExitStack() as stack:
            output, errors = (stack.enter_context(tempfile.TemporaryFile(prefix="batchmill-batch-")) for _ in range(2))
            for request in self._requests(record):
                found, letters = results.take(request.line), dead.take(request.line)
                if letters:
                    tally.failed += 1
                    errors.write(_line(batch, request, _failed(letters[0]), None))
                elif is_answered(endpoint, request, len(found), job.state):
                    try:
                        body, usage = endpoint.answer(_answered(batch, request, job), found)
                    except BodyFault as fault:
                        tally.failed += 1
                        errors.write(_line(batch, request, _refused(fault), None))
                        continue
                    tally.answered += 1
                    tally.usage += usage
                    output.write(_line(batch, request, (200, body), None))
                else:
                    errors.write(_line(batch, request, None, NEVER_RUN.get(job.state, LOST)))
            counts = RequestCounts(total=batch.request_counts.total, completed=tally.answered, failed=tally.failed)
            written = Written(counts, _usage(tally.usage))
            if output.tell():
                written.output_file_id = record.output_id
                self._store(record, tenant, record.output_id, f"{batch.id}_output.jsonl", output)
            if errors.tell():
                written.error_file_id = record.error_id
                self._store(record, tenant, record.error_id, f"{batch.id}_error.jsonl", errors)
        return written

    def _store(self, record: BatchRecord, tenant: str, file_id: str, name: str, source: IO[bytes]) -> None:
        def fill(path: str) -> None:
            source.seek(0)
            with open(path, "wb") as target:  # noqa: PTH123  # the path is text
                shutil.copyfileobj(source, target)

        self._files.store_output(file_id, tenant, name, record.output_ttl_s, fill)

    def _requests(self, record: BatchRecord) -> Iterator[Request]:
        """Yield the requests in order, from the rows of the job; no request is in two parts."""
        for number in range(record.parts):
            table = self._workspace.blobs.read_table(upload_part(record.upload or "", number))
            rows_of_part = table.select([LINE, CUSTOM_ID, FORM]).to_pylist()
            for line, rows in groupby(rows_of_part, key=lambda row: int(row[LINE])):
                first, *others = rows
                form = json.loads(first[FORM]) if first[FORM] else {}
                yield Request(line, first[CUSTOM_ID], form, 1 + len(others))

    def _results(self, job: JobRecord) -> Iterator[tuple[int, dict[str, Any]]]:
        store = self._workspace.open_results(job.id, job.spec, FIRST_STAGE)
        for shard in settled_shards(self._ledger, job, FIRST_STAGE):
            for part in shard.parts:
                tables = results_of(self._ledger, job, FIRST_STAGE, store, [part]) if part.results else []
                for table in tables:
                    yield from _rows_of(table)

    def _dead(self, job: JobRecord) -> Iterator[tuple[int, DeadLetter]]:
        for shard in self._dead_rows.shards(job, FIRST_STAGE):
            dead = self._dead_rows.read(job.id, shard)
            yield from zip(dead.rows[LINE].to_pylist(), dead.letters, strict=True)


def _rows_of(table: pa.Table) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row of a part with its line, without the columns that batches have for themselves."""
    for batch in table.to_batches(max_chunksize=CHUNK_ROWS):
        for row in batch.to_pylist():
            yield row[LINE], {name: value for name, value in row.items() if name not in OWN.names}


def is_answered(endpoint: Endpoint, request: Request, results: int, state: JobState) -> bool:
    """Return whether a request has its answer. Pure.

    An operator that is called as such may make no result of a row, or several; if the job was stopped, none may also
    mean that it was not run.
    """
    if endpoint.kind is not None:
        return results == request.rows
    return results > 0 or state is JobState.COMPLETED


def _request_id(batch: Batch, request: Request) -> str:
    return hashlib.blake2b(f"{batch.id} {request.line}".encode(), digest_size=12).hexdigest()


def _answered(batch: Batch, request: Request, job: JobRecord) -> Answered:
    name = batch.model or job.spec.first.operator
    return Answered(_request_id(batch, request), name, (job.finished_at or job.created_at) // 1000, request.form)


def _failed(letter: DeadLetter) -> tuple[int, dict[str, Any]]:
    status, code = ROW_FAULTS.get(letter.error_type, (500, letter.error_type))
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return status, {"error": {"message": letter.message, "type": kind, "param": None, "code": code}}


def _refused(fault: BodyFault) -> tuple[int, dict[str, Any]]:
    shown = {"message": fault.message, "type": "invalid_request_error", "param": fault.param, "code": fault.code}
    return 400, {"error": shown}


def _line(
    batch: Batch, request: Request, answer: tuple[int, dict[str, Any]] | None, error: tuple[str, str] | None
) -> bytes:
    """Write a line of a file: a response with its status, or why there is none."""
    own_id = _request_id(batch, request)
    response = None if answer is None else {"status_code": answer[0], "request_id": f"req_{own_id}", "body": answer[1]}
    shown = None if error is None else {"code": error[0], "message": error[1]}
    line = {"id": f"batch_req_{own_id}", "custom_id": request.custom_id, "response": response, "error": shown}
    return to_json(line, inf_nan_mode="null") + b"\n"


def _usage(usage: Usage) -> BatchUsage:
    return BatchUsage(
        input_tokens=usage.prompt,
        input_tokens_details=InputDetails(cached_tokens=usage.cached),
        output_tokens=usage.generated,
        output_tokens_details=OutputDetails(reasoning_tokens=0),
        total_tokens=usage.prompt + usage.generated,
    )
