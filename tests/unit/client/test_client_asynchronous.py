from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, TypeVar

import pyarrow as pa
import pytest

from batchmill import AsyncClient
from batchmill.client.connection.events import Event, server_sent_events
from batchmill.errors import InvalidRequest, JobFailed
from batchmill.jobs.job import JobState

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from support.live_service import LiveService


T = TypeVar("T")


def _with_client(service: LiveService, work: Callable[[AsyncClient], Awaitable[T]]) -> T:
    async def main() -> T:
        async with AsyncClient(service.url, service.token) as client:
            return await work(client)

    return asyncio.run(main())


def test_a_job_goes_all_the_way(service: LiveService) -> None:
    async def work(client: AsyncClient) -> tuple[list[JobState], list[dict[str, Any]], list[int], int]:
        job = await client.submit("echo", rows=[{"id": 1}, {"id": 2}])
        statuses = [status.state async for status in job.watch()]
        rows = [row async for row in job.results()]
        batches = [batch.num_rows async for batch in job.batches()]
        table = await (await job.wait()).to_table()
        return statuses, rows, batches, table.num_rows

    states, *rest = _with_client(service, work)
    assert states[-1] is JobState.COMPLETED
    assert set(states[:-1]) <= {JobState.PENDING, JobState.RUNNING}
    assert rest == [[{"id": 1}, {"id": 2}], [2], 2]


def test_rows_from_an_iterator_are_read_off_the_loop_and_uploaded(service: LiveService) -> None:
    seen = set()

    def rows() -> Iterator[dict[str, object]]:
        for i in range(60_000):
            seen.add(threading.current_thread())
            yield {"id": i, "text": "x" * 200}

    async def work(client: AsyncClient) -> pa.Table:
        return await (await client.submit("echo", rows=rows())).to_table()

    assert _with_client(service, work)["id"].to_pylist() == list(range(60_000))
    assert threading.main_thread() not in seen


def test_many_jobs_run_at_once_over_one_client(service: LiveService) -> None:
    async def one(client: AsyncClient, number: int) -> list[dict[str, Any]]:
        job = await client.submit("echo", rows=[{"n": number}])
        return [row async for row in job.results()]

    async def work(client: AsyncClient) -> list[list[dict[str, Any]]]:
        return await asyncio.gather(*(one(client, number) for number in range(50)))

    assert _with_client(service, work) == [[{"n": number}] for number in range(50)]


def test_an_iterator_that_fails_submits_nothing(service: LiveService) -> None:
    def rows() -> Iterator[dict[str, object]]:
        yield {"a": 1}
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        _with_client(service, lambda client: client.submit("echo", rows=rows()))
    with pytest.raises(InvalidRequest, match="neither"):
        _with_client(service, lambda client: client.submit("echo"))
    assert service.requests == []


def test_errors_and_lists_are_those_of_the_blocking_client(service: LiveService) -> None:
    async def work(client: AsyncClient) -> None:
        service.holds_jobs = True
        job = await client.submit("echo", rows=[{"a": 1}])
        assert [one.id for one in await client.jobs()] == [job.id]
        assert [worker.device for worker in await client.workers()] == ["cpu"]
        assert {"echo", "embed"} <= {operator.name for operator in await client.operators()}
        await asyncio.to_thread(service.change, job.id, pa.table({"a": [1]}))
        await asyncio.to_thread(service.fail, job.id)
        with pytest.raises(JobFailed, match="no weights"):
            await job.to_table()
        assert repr(job) == f"<AsyncJob {job.id} 'echo' failed: 1 of 1 rows>"

    _with_client(service, work)


def test_cancelling_a_wait_leaves_the_client_usable(service: LiveService) -> None:
    async def work(client: AsyncClient) -> JobState:
        service.holds_jobs = True
        job = await client.submit("echo", rows=[{"a": 1}])
        waiting = asyncio.create_task(job.wait())
        reading = asyncio.create_task(job.to_table())
        await job.status()
        waiting.cancel()
        reading.cancel()
        await asyncio.gather(waiting, reading, return_exceptions=True)
        return (await job.cancel()).state

    assert _with_client(service, work) in (JobState.CANCELLING, JobState.CANCELLED)


def test_events_are_parsed_as_the_standard_says() -> None:
    async def lines() -> AsyncIterator[bytes]:
        text = (
            b": comment\n\nevent: status\r\ndata: one\r\ndata:two\r\nid: 7\r\n\r\ndata\n\nretry: 5\n\ndata: cut off\n"
        )
        for line in text.splitlines(keepends=True):
            yield line

    async def collect() -> list[Event]:
        return [event async for event in server_sent_events(lines())]

    assert asyncio.run(collect()) == [Event("status", "one\ntwo"), Event("message", "")]
