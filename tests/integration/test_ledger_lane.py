"""Messages of the lane between coordinators and workers, when something is in the way."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from prometheus_client import CollectorRegistry

from batchmill.errors import ModelNotLoaded, ServiceUnavailable
from batchmill.ledger.formats.lane_messages import LaneReply, LaneRequest, LoadRequest, ReplyKind
from batchmill_coordinator.fleet.pools import EMPTY
from batchmill_coordinator.fleet.worker_capacity import WorkerCapacity
from batchmill_coordinator.lane.lane import Lane, LaneLimits
from batchmill_coordinator.lane.target import LaneTarget
from batchmill_coordinator.metering.lane import LaneMetrics

if TYPE_CHECKING:
    import redis

    from batchmill.ledger import Ledger
    from batchmill_coordinator.fleet.fleet_view import FleetView


def test_a_listener_is_told_that_its_connection_broke_and_hears_again(
    ledger: Ledger, redis_client: redis.Redis
) -> None:
    reply = LaneReply("r", 0, 0, ReplyKind.DONE, b"|\x00|")
    replies = ledger.lane.replies("me")
    assert next(replies) is None
    assert ledger.lane.reply([("me", reply)]) == [True]
    assert next(replies) == reply
    redis_client.client_kill_filter(_type="pubsub")
    with pytest.raises(ServiceUnavailable, match="lost"):
        list(itertools.islice(replies, 10))
    again = ledger.lane.replies("me")
    assert next(again) is None
    assert ledger.lane.reply([("me", reply)]) == [True]
    assert next(again) == reply


@pytest.mark.parametrize(("loading", "is_requested"), [(frozenset(), True), (frozenset({"m"}), False)])
def test_a_model_that_a_worker_is_loading_is_not_requested_again(
    ledger: Ledger, loading: frozenset[str], *, is_requested: bool
) -> None:
    worker = WorkerCapacity("w", 2, loading=loading)
    fleet = SimpleNamespace(last_read=lambda: None, pools=lambda: {"p": replace(EMPTY, members=(worker,))})
    lane = Lane(ledger, cast("FleetView", fleet), LaneLimits(9, 9, 9.0), LaneMetrics(CollectorRegistry()))
    target = LaneTarget("p", "embed", {}, "m", "embed")

    async def call() -> None:
        async with lane.call(target, [{"text": "a"}], "me"):
            raise AssertionError("no worker has the model")

    with pytest.raises(ModelNotLoaded, match="loaded"):
        asyncio.run(call())
    requested = ledger.lane.take_load("p", 0.01)
    assert (requested == LoadRequest("me", "m", "embed", {})) is is_requested


def test_models_of_one_tenant_do_not_keep_those_of_others_waiting_and_none_is_loaded_for_nobody(
    ledger: Ledger, redis_client: redis.Redis, prefix: str
) -> None:
    for number in range(9):
        ledger.lane.request_load("p", LoadRequest("greedy", f"m{number}", "embed", {}))
    ledger.lane.request_load("p", LoadRequest("other", "mine", "embed", {}))
    redis_client.delete(*(key for key in redis_client.scan_iter(f"{prefix}*m1*")))  # its 30 s are over
    taken = [ledger.lane.take_load("p", 0.01) for _ in range(6)]
    assert [one.model if one else None for one in taken] == ["m0", None, "m2", "m3", "mine", None]


@pytest.mark.parametrize(
    "message",
    [LaneRequest("id", "c", "t", "p", "m", "embed", {}, [{"text": "a"}]), LoadRequest("t", "m", "embed", {})],
)
def test_a_message_of_a_later_version_is_read_as_far_as_it_is_known(message: LaneRequest | LoadRequest) -> None:
    later = json.dumps(json.loads(message.encode()) | {"colour": "red"}).encode()
    assert type(message).decode(later) == message
