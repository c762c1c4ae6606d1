"""Searches: a small job embeds the query as the rows of the index were, and finds the nearest rows.

So workers alone have models and the clients of stores, and a search is charged, limited and logged as all work is. The
job is deleted as soon as its results are read.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from batchmill.errors import BatchmillError, Conflict, InvalidParams, InvalidRequest, InvalidRows, ServiceUnavailable
from batchmill.jobs.dead_letters import json_value
from batchmill.jobs.job import JobRequest, JobState, StageForm
from batchmill.jobs.search import SearchHit, SearchResult
from batchmill.jobs.sink import ID, OWN_COLUMNS, SEARCH_OPERATOR, SPANS_OPERATOR
from batchmill.jobs.stages import last_stage
from batchmill.stage_results import settled_shards
from batchmill_coordinator.results.outputs import results_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from batchmill.jobs.index_status import IndexStatus
    from batchmill.jobs.search import SearchRequest
    from batchmill.ledger import JobRecord, Ledger
    from batchmill.workspace import Workspace

PRIORITY = 100
DISTANCE = "_distance"
HIDDEN = frozenset({*OWN_COLUMNS, DISTANCE, "source_row", "source_path"})


class IndexSearch:
    """Runs searches. admit: accepts a job of the service itself. delete: deletes an ended job.

    None of its methods waits for a worker: a thread that did would be lost to all other requests.
    """

    def __init__(
        self,
        ledger: Ledger,
        workspace: Workspace,
        admit: Callable[[JobRequest, str], str],
        delete: Callable[[str], None],
    ) -> None:
        self._ledger = ledger
        self._workspace = workspace
        self._admit = admit
        self._delete = delete

    def begin(self, index: IndexStatus, request: SearchRequest) -> str:
        """Submit the job of a search; return its id. Raises a subclass of `InvalidRequest`, or `Overloaded`."""
        _check(index, request)
        return self._admit(job_of(index, request), index.tenant)

    def result(self, job_id: str) -> SearchResult | None:
        """Return what a search has found; None: not yet. Raises its error."""
        record = self._ledger.jobs.read(job_id)
        if not record.state.is_final:
            return None
        if record.error is not None:
            kind = InvalidParams if record.error.code.startswith("invalid_") else ServiceUnavailable
            raise kind(f"the search failed: {record.error.message}")
        if record.state is not JobState.COMPLETED:
            raise ServiceUnavailable(f"the search was {record.state}: its job is {job_id}.")
        if record.rows_dead:
            raise InvalidRows(
                "the query could not be embedded: " + ", ".join(self._ledger.jobs.dead_counts(job_id)) + ".",
                hint="Try another text, or give a vector.",
            )
        return SearchResult(hits=self._hits(record))

    def end(self, job_id: str) -> None:
        """Delete the job of a search, or stop it if it runs: it is deleted with the others, later."""
        try:
            self._delete(job_id)
        except Conflict:
            with suppress(BatchmillError):
                self._ledger.jobs.stop(job_id, JobState.CANCELLING, None)
        except BatchmillError:
            return

    def _hits(self, record: JobRecord) -> list[SearchHit]:
        stage = last_stage(record.spec)
        store = self._workspace.open_results(record.id, record.spec, stage)
        hits: list[SearchHit] = []
        for shard in settled_shards(self._ledger, record, stage):
            for table in results_of(self._ledger, record, stage, store, [part for part in shard.parts if part.results]):
                hits += [_hit(row) for row in table.to_pylist()]
        return hits


def job_of(index: IndexStatus, request: SearchRequest) -> JobRequest:
    """Return the job that a search is. Pure."""
    sink = index.sink
    params = {
        "sink": sink.model_dump(mode="json", exclude={"pool", "writers"}),
        "vector": sink.vector,
        "k": request.k,
        "where": request.where,
        "columns": None if request.columns is None else [ID, *(name for name in request.columns if name != ID)],
    }
    find = StageForm(
        operator=SEARCH_OPERATOR, name="search", params=params, carry=[], pool=sink.pool or index.pool or None
    )
    shared: dict[str, Any] = {"name": f"search {index.name}"[:128], "priority": PRIORITY}
    if request.vector is not None or index.operator is None:
        return JobRequest(stages=[find], rows=[{sink.vector: request.vector}], **shared)
    embed = StageForm(operator=index.operator, name="embed", params=index.params, carry=[], pool=index.pool or None)
    row = {index.params.get("column", "text"): request.text}
    if index.operator == SPANS_OPERATOR:
        row[index.params.get("spans", "spans")] = None
    return JobRequest(stages=[embed, find], rows=[row], **shared)


def _check(index: IndexStatus, request: SearchRequest) -> None:
    if request.text is not None and index.operator is None:
        raise InvalidRequest(
            f"the vectors of the index {index.name!r} are from the source of its job, so that a text cannot be "
            "embedded like them.",
            hint="Give a vector (--vector FILE).",
            field="text",
        )
    model = index.params.get("model")
    if request.model is not None and request.model != model:
        made_by = repr(model) if model else f"{index.operator or 'its rows'}, without a model"
        raise InvalidRequest(
            f"the index {index.name!r} was made by {made_by}, not by {request.model!r}: their vectors cannot be "
            "compared.",
            field="model",
        )
    if request.vector is not None and len(request.vector) != index.dimension:
        raise InvalidRequest(
            f"the vector has {len(request.vector)} numbers, those of the index {index.name!r} have {index.dimension}.",
            field="vector",
        )


def _hit(row: dict[str, Any]) -> SearchHit:
    shown = {name: value for name, value in row.items() if name not in HIDDEN}
    return SearchHit(id=row.get(ID), distance=row[DISTANCE], row=json_value(shown))
