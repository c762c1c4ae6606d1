"""What a service takes in a minute, divided among workers by the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
import redis

from batchmill.ledger import Ledger
from batchmill.storage.named_endpoints import NamedEndpoint, NamedEndpoints
from support.language_models import Shards, loaded
from support.model_service import chat_reply, error_reply, model_service

if TYPE_CHECKING:
    from pathlib import Path

    from batchmill.ledger.workers.endpoints import EndpointLedger
    from support.model_service import Reply

NOW_MS = 1_800_000_000_000


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("secret\n")
    return path


class Worker:
    """A worker at a time that the test sets."""

    def __init__(self, client: redis.Redis, prefix: str, endpoint: NamedEndpoint) -> None:
        self._client, self._prefix, self.endpoint = client, prefix, endpoint

    def at(self, seconds: float) -> EndpointLedger:
        return Ledger(self._client, self._prefix, now_ms=NOW_MS + int(seconds * 1000)).endpoints

    def take(self, seconds: float, tokens: int = 0, returned: int = 0) -> float:
        return self.at(seconds).take(self.endpoint, tokens, returned)


@pytest.fixture
def worker(redis_client: redis.Redis, prefix: str, key_file: Path) -> Any:
    def make(**limits: Any) -> Worker:
        endpoint = NamedEndpoint(url="http://service/v1", key_file=key_file, **limits)
        return Worker(redis_client, prefix, endpoint)

    return make


def test_workers_together_send_as_many_requests_in_a_minute_as_the_service_takes(worker: Any) -> None:
    first, second = worker(requests_per_minute=60), worker(requests_per_minute=60)

    at_once = [one.take(0) for _ in range(10) for one in (first, second)]

    assert at_once[:7] == [0.0] * 7  # a tenth of a minute, and one
    assert set(at_once[7:]) == {1.0}  # who has to wait has taken nothing
    sent = 0
    for second_number in range(1, 121):
        sent += (first if second_number % 2 else second).take(second_number) == 0
    assert sent == 120


def test_tokens_are_taken_before_and_what_was_not_needed_is_given_back(worker: Any) -> None:
    one, other = worker(tokens_per_minute=6000), worker(tokens_per_minute=6000)

    assert one.take(0, 1000) == 0
    assert other.take(0, 1000) == 4.0  # 10 s are taken, and 6 s may be
    assert other.take(0, 1000, returned=700) == 0
    assert one.take(0, 1) == 7.0


def test_a_service_that_asks_to_be_left_alone_is_by_all_workers(worker: Any) -> None:
    one, other = worker(), worker()

    one.at(0).hold(one.endpoint, 30)
    one.at(0).hold(one.endpoint, 5)

    assert other.take(10) == 20.0
    assert other.take(30) == 0


def test_another_key_has_limits_of_its_own_and_no_key_is_stored(
    worker: Any, redis_client: redis.Redis, prefix: str, tmp_path: Path
) -> None:
    one = worker(requests_per_minute=1)
    assert [one.take(0), one.take(0)] == [0.0, 54.0]
    other_key = tmp_path / "other"
    other_key.write_text("different")
    other = Worker(redis_client, prefix, one.endpoint.model_copy(update={"key_file": other_key}))

    assert other.take(0) == 0
    names = [name.decode() for name in redis_client.scan_iter(f"{prefix}endpoint:*")]
    assert len(names) == 2
    assert not any("secret" in name or "service" in name for name in names)
    assert all(0 < int(redis_client.pttl(name)) <= 3_600_000 for name in names)


def test_the_engine_takes_its_share_gives_back_what_it_did_not_need_and_tells_others_to_wait(
    redis_client: redis.Redis, prefix: str
) -> None:
    def answer(_: dict[str, Any], number: int) -> Reply:
        return error_reply(429, "rate_limit_exceeded", retry_after_ms="20") if number == 1 else chat_reply("yes")

    ledger = Ledger(redis_client, prefix)
    table = pa.table({"body": [f"row {number}" for number in range(5)]})
    with model_service(answer) as service:
        endpoint = NamedEndpoint(url=service.url, requests_per_minute=1000, tokens_per_minute=60_000)
        params: dict[str, Any] = {"model": "m", "endpoint": "test", "prompt": "{body}", "max_tokens": 1000}
        with loaded(
            "chat", endpoints=NamedEndpoints({"test": endpoint}), shared_limits=ledger.endpoints, **params
        ) as operator:
            result = Shards(operator).run(table)

    assert result.rows_done == 5
    (name,) = redis_client.scan_iter(f"{prefix}endpoint:*")
    kept: Any = redis_client.hgetall(name)
    at = {field.decode(): float(value) for field, value in kept.items()}
    assert at["not_before"] > 0
    assert at["requests_at"] > at["not_before"] - 20
    assert at["tokens_at"] > at["not_before"] - 20


def test_a_ledger_that_cannot_be_reached_holds_no_request(tmp_path: Path) -> None:
    away = Ledger(redis.Redis(unix_socket_path=str(tmp_path / "none")), "p:")
    with model_service(lambda *_: chat_reply("yes")) as service:
        endpoints = NamedEndpoints({"test": NamedEndpoint(url=service.url, requests_per_minute=1)})
        params: dict[str, Any] = {"model": "m", "endpoint": "test", "prompt": "{body}"}
        with loaded("chat", endpoints=endpoints, shared_limits=away.endpoints, **params) as operator:
            result = Shards(operator).run(pa.table({"body": ["a", "b", "c"]}))

    assert result.rows_done == 3
