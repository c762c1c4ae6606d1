"""Searches that no worker answers: they hold up no other request, and leave nothing when they end."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from batchmill.jobs.index_status import IndexStatus
from batchmill.jobs.sink import SinkSpec
from support.live_service import TOKEN, LiveService
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

THREADS, SEARCHES = 2, 8


@pytest.fixture
def service(valkey_url: str, tmp_path: Path) -> Iterator[LiveService]:
    """A service with few threads, whose jobs wait, and an index."""
    made = LiveService(valkey_url, "searches:", tmp_path, request_threads=THREADS).start()
    index = IndexStatus(
        name="papers",
        tenant="default",
        sink=SinkSpec(to=str(tmp_path / "papers.lance")),
        rows=1,
        dimension=2,
        index_kind="none",
        job="job-1",
        published_at=0.0,
    )
    made.service.indexes.write(index)
    made.holds_jobs = True
    yield made
    made.reset()
    made.stop()


def answered(service: LiveService, method: str, path: str, body: object = None) -> tuple[int, str]:
    """What the service answers, asked once: a client would ask again after a 503."""
    request = Request(  # noqa: S310  # of the test's own service
        service.direct_url + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"},
        method=method,
    )
    try:
        with urlopen(request, timeout=GRACE_S) as answer:  # noqa: S310  # an http address of this test
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def test_searches_that_wait_take_no_threads_of_other_requests(service: LiveService) -> None:
    with ThreadPoolExecutor(SEARCHES) as threads:
        path, body = "/v1/indexes/papers/search", {"vector": [1.0, 2.0]}
        searches = [threads.submit(answered, service, "POST", path, body) for _ in range(SEARCHES)]
        until(lambda: len(service.job_ids()) == SEARCHES, "the searches")
        for job_id in service.job_ids():
            assert answered(service, "POST", f"/v1/jobs/{job_id}/cancel")[0] == 200
        for search in searches:
            status, text = search.result(GRACE_S)
            assert (status, "was cancelled" in text) == (503, True)
    until(lambda: not service.job_ids(), "the end of their jobs")
