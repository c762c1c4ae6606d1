"""Messages of the lane between coordinators and workers, when something is in the way."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from prometheus_client import CollectorRegistry

from batchmill.errors import ModelNotLoaded, ServiceUnavailable
from batchmill.jobs.cost import Parts
from batchmill.ledger.formats.lane_messages import LaneReply, LaneRequest, LoadRequest, ReplyKind
from batchmill.ledger.lane import MAX_PUBLISHED_BYTES, RESULT_TTL_MS, LaneLedger
from batchmill_coordinator.fleet.pools import EMPTY
from batchmill_coordinator.fleet.worker_capacity import WorkerCapacity
from batchmill_coordinator.lane.lane import Lane, LaneLimits
from batchmill_coordinator.lane.target import LaneTarget
from batchmill_coordinator.metering.lane import LaneMetrics
from batchmill_worker.slot.lane.charges import LaneCharges

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


def test_large_results_are_in_no_channel_and_in_their_key_until_they_are_read(
    ledger: Ledger, redis_client: redis.Redis, prefix: str
) -> None:
    large = LaneReply("r", 1, 3, ReplyKind.DONE, bytes(MAX_PUBLISHED_BYTES + 1))
    replies = ledger.lane.replies("me")
    assert next(replies) is None
    assert ledger.lane.reply([("me", large)] * 2) == [True, True]
    (key,) = redis_client.scan_iter(f"{prefix}*result*")
    assert 0 < redis_client.pttl(key) <= RESULT_TTL_MS
    assert next(replies) == large
    assert not redis_client.exists(key)
    gone = next(replies)
    assert gone is not None
    assert (gone.kind, gone.number, json.loads(gone.payload)["error"]["code"]) == (ReplyKind.ERROR, 3, "worker_lost")


def test_charges_whose_answers_are_lost_count_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    charges = LaneCharges(ledger.lane, "p", 1000)
    request = LaneRequest("id", "c", "me", "p", "m", "embed", {}, [{"text": "a"}])
    charge = LaneLedger.charge
    with monkeypatch.context() as broken:

        def lose(lane: LaneLedger, *args: Any) -> None:
            charge(lane, *args)
            raise ServiceUnavailable("the answer was lost")

        broken.setattr(LaneLedger, "charge", lose)
        charges.add("embed", [request], Parts(useful=7))
        charges._charge()
        charges.add("embed", [request], Parts(useful=4))
        charges._charge()
    charges.start()
    charges.stop()
    spent = ledger.costs.totals().tenants["me"]
    assert (spent.us.useful, spent.rows) == (11, 2)


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


def test_a_model_is_requested_again_though_the_worker_that_was_to_load_it_has_died(
    ledger: Ledger, redis_client: redis.Redis
) -> None:
    request, key = LoadRequest("me", "m", "embed", {}), ledger._store.keys.lane_load("p", "m")
    for is_listed in (True, False):
        ledger.lane.request_load("p", request)
        redis_client.pexpire(key, 5000)  # 25 s have passed
        ledger.lane.request_load("p", request)
        assert (redis_client.pttl(key) > 5000) is is_listed
        assert (ledger.lane.take_load("p", 0.01) == request) is is_listed
    redis_client.delete(key)  # its 30 s are over
    ledger.lane.request_load("p", request)
    assert ledger.lane.take_load("p", 0.01) == request


@pytest.mark.parametrize(
    "message",
    [LaneRequest("id", "c", "t", "p", "m", "embed", {}, [{"text": "a"}]), LoadRequest("t", "m", "embed", {})],
)
def test_a_message_of_a_later_version_is_read_as_far_as_it_is_known(message: LaneRequest | LoadRequest) -> None:
    later = json.dumps(json.loads(message.encode()) | {"colour": "red"}).encode()
    assert type(message).decode(later) == message


def test_requests_of_tenants_that_have_their_share_are_passed_over(ledger: Ledger) -> None:
    def request(number: int, tenant: str) -> LaneRequest:
        rows = [{"text": '"tenant": "third"'}]
        return LaneRequest(str(number), "c", tenant, "p", "m", "chat", {}, rows, leaves_places=True)

    for number in range(40):
        ledger.lane.push(request(number, "greedy"), 99)
    ledger.lane.push(request(40, "other"), 99)
    ledger.lane.push(request(41, "greed"), 99)
    assert ledger.lane.take_past("p", "m", ["greedy", "third"]) == request(40, "other")
    assert ledger.lane.take_past("p", "m", ["greedy", "other"]) == request(41, "greed")
    assert ledger.lane.take_past("p", "m", ["greedy", "other"]) is None
    assert ledger.lane.take("p", "m", 1, 0.01) == [request(0, "greedy")]
    assert ledger.lane.waiting([("p", "m")]) == [39]
