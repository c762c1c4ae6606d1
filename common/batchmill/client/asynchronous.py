"""The client for asyncio: the one implementation, which the blocking client runs on a thread of its own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from pydantic import BaseModel

from batchmill.client.job import AsyncJob
from batchmill.client.rows import check_rows, pieces
from batchmill.client.service import find_service
from batchmill.client.submission import Submission, make_spec
from batchmill.client.transport import Transport
from batchmill.cost import CostTotals
from batchmill.errors import InvalidRequest
from batchmill.job import JobStatus, PoolStatus, WorkerInfo
from batchmill.operators.contract import OperatorInfo
from batchmill.row_cache import CacheStats

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime, timedelta

    from batchmill.client.rows import Piece
    from batchmill.job import BatchPolicy, RetryPolicy

M = TypeVar("M", bound=BaseModel)


class _Jobs(BaseModel):
    jobs: list[JobStatus]
    next: str | None = None


class _Workers(BaseModel):
    workers: list[WorkerInfo]


class _Pools(BaseModel):
    pools: list[PoolStatus]


class _Operators(BaseModel):
    operators: list[OperatorInfo]


class AsyncClient:
    """Talks to a Batchmill service from asyncio code.

    url, token: the service, else `BATCHMILL_URL` and `BATCHMILL_TOKEN`, else the one that `batchmill up` runs on
    this machine. Use it as an async context manager or `close` it; it belongs to one event loop. All methods raise
    the typed errors of `batchmill.errors`, among them `Unauthorized` and `ServiceUnavailable`.
    """

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        self._transport = Transport(find_service(url, token))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._transport.address.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections; jobs go on."""
        await self._transport.close()

    async def submit(
        self,
        operator: str,
        rows: Any = None,
        *,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        output: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        carry: Sequence[str] | None = None,
        name: str | None = None,
        pool: str | None = None,
        priority: int = 0,
        deadline: datetime | timedelta | float | None = None,
        retry: RetryPolicy | None = None,
        batch: BatchPolicy | None = None,
        cache: bool = False,
        budget: float | None = None,
        on_null: Literal["dead", "fail"] = "dead",
        idempotency_key: str | None = None,
    ) -> AsyncJob:
        """Submit a job over `rows` or over the files of `source`; exactly one of them.

        operator: the name of an operator that the service's workers have loaded.
        rows: dicts, an Arrow table, or an iterable of either, as long as you like: it is read in another thread,
            piece by piece, and uploaded. If it raises, nothing is submitted and its error passes through.
        source: a file, folder or glob, several of them, or `{"path": …, "format": …, …}` with the fields
            of `FileSource`, read by the service. Relative paths are taken from the current folder.
        params: the operator's parameters.
        output: a folder for the results, or `{"path": …, "format": "parquet" | "jsonl"}`; None keeps them in the
            service.
        carry: input columns that the results keep; None keeps all.
        pool: the pool of workers to run on. priority: -100 to 100, higher goes first.
        deadline: when the job expires unless it is done: a moment with its time zone, or how long from now, as a
            timedelta or in seconds. Of jobs of one priority, the earliest deadline goes first.
        cache: whether rows whose results are known from earlier jobs are taken from the row cache, and new ones are
            put there; rows that are equal are then computed once.
        budget: the job is paused when it has cost so much, in the service's currency; `AsyncJob.resume` can raise it.
        on_null: what becomes of a row without a value that the operator requires: a dead letter, or it fails the job.
        idempotency_key: submitting again with the same key gives the job that is there already.

        Raises an `InvalidRequest` that names what is wrong; then nothing was submitted.
        """
        submission, parts = self.prepare(
            operator,
            rows,
            source=source,
            params=params,
            output=output,
            carry=carry,
            name=name,
            pool=pool,
            priority=priority,
            deadline=deadline,
            retry=retry,
            batch=batch,
            cache=cache,
            budget=budget,
            on_null=on_null,
            idempotency_key=idempotency_key,
        )
        return await self._send(submission, parts)

    async def _send(self, submission: Submission, parts: Iterator[Piece]) -> AsyncJob:
        """The second half of `submit`: everything is sent, or what was sent is dropped again."""
        try:
            while (piece := await asyncio.to_thread(next, parts, None)) is not None:
                if not submission.hold(piece):
                    await submission.put(piece)
            return self.adopt(await submission.finish())
        except BaseException:
            await submission.abort()
            raise

    def prepare(
        self, operator: str, rows: Any, *, source: Any, idempotency_key: str | None, **options: Any
    ) -> tuple[Submission, Iterator[Piece]]:
        """The first half of `submit`: everything is checked, nothing is sent; then come the pieces to `put`."""
        if (rows is None) == (source is None):
            raise InvalidRequest(
                f"a job takes rows or a source, {'neither' if rows is None else 'both'} came.",
                hint="Give rows= or source=.",
            )
        if rows is not None:
            check_rows(rows)
        spec = make_spec(operator, source=source, **options)
        return Submission(self._transport, spec, idempotency_key), iter(()) if rows is None else pieces(rows)

    def adopt(self, status: JobStatus) -> AsyncJob:
        """The job that a status tells of."""
        return AsyncJob(self._transport, status.id, status)

    def job(self, job_id: str) -> AsyncJob:
        """A job by its id. Asks nothing of the service: an unknown id is told by the first method that does."""
        if not job_id.strip():
            raise InvalidRequest("the job id is empty.", hint="`client.jobs()` and `batchmill jobs` list the jobs.")
        return AsyncJob(self._transport, job_id)

    async def jobs(self, limit: int | None = None) -> list[AsyncJob]:
        """The jobs the service knows, newest first, at most `limit` of them; each with its `latest` status."""
        found: list[AsyncJob] = []
        before: str | None = None
        while limit is None or len(found) < limit:
            query = {"limit": str(min(100, limit - len(found)) if limit is not None else 100)}
            page = await self._get(_Jobs, "/v1/jobs", query | ({"before": before} if before else {}))
            found += map(self.adopt, page.jobs)
            before = page.next
            if not before:
                break
        return found

    async def live_jobs(self, limit: int = 100) -> list[AsyncJob]:
        """The jobs that have not ended, newest first, at most `limit` (1 to 1000) of them."""
        page = await self._get(_Jobs, "/v1/jobs", {"live": "true", "limit": str(limit)})
        return [self.adopt(status) for status in page.jobs]

    async def workers(self) -> list[WorkerInfo]:
        """The workers that are alive."""
        return (await self._get(_Workers, "/v1/workers")).workers

    async def pools(self) -> list[PoolStatus]:
        """What runs and what waits in each pool."""
        return (await self._get(_Pools, "/v1/pools")).pools

    async def operators(self) -> list[OperatorInfo]:
        """The operators that the workers have loaded."""
        return (await self._get(_Operators, "/v1/operators")).operators

    async def cache(self) -> CacheStats:
        """How the service's row cache stands."""
        return await self._get(CacheStats, "/v1/cache")

    async def clear_cache(self) -> None:
        """Empty the service's row cache."""
        await self._transport.call("DELETE", "/v1/cache")

    async def costs(self, limit: int = 50) -> CostTotals:
        """What all jobs cost, deleted ones too: by tenant, by pool and operator, by day; at most `limit` of each."""
        return await self._get(CostTotals, "/v1/costs", {"limit": str(limit)})

    async def _get(self, model: type[M], path: str, query: Mapping[str, str] | None = None) -> M:
        return self._transport.parse(model, await self._transport.json("GET", path, query=query))
