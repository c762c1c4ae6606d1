"""Messages of the lane between coordinators and workers, when something is in the way."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from prometheus_client import CollectorRegistry

from batchmill.errors import ModelNotLoaded, ServiceUnavailable
from batchmill.ledger.formats.lane_messages import LaneReply, LoadRequest, ReplyKind
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
