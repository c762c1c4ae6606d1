"""Messages of the lane when the connection that they come by is broken."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from batchmill.errors import ServiceUnavailable
from batchmill.ledger.formats.lane_messages import LaneReply, ReplyKind

if TYPE_CHECKING:
    import redis

    from batchmill.ledger import Ledger


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
