"""What is different in a rerun, as it is written on the command line and in Python."""

from __future__ import annotations

from typing import Any

import pytest

from batchmill.cli.rerun import stage_changes
from batchmill.client.submitting.rerun import rerun_request
from batchmill.errors import InvalidRequest

NOTHING: dict[str, Any] = dict.fromkeys(["output", "sink", "name", "priority", "deadline", "budget", "idempotency_key"])


def test_changes_are_sorted_by_stage() -> None:
    changes = (("embed.params.model", "x"), ("embed.pool", "gpu"), ("c.retry.max_attempts", 2))
    assert stage_changes(changes) == {
        "embed": {"params": {"model": "x"}, "pool": "gpu"},
        "c": {"retry": {"max_attempts": 2}},
    }


@pytest.mark.parametrize("place", ["model", "embed.pool.x"])
def test_a_place_that_is_in_no_stage_is_refused(place: str) -> None:
    with pytest.raises(InvalidRequest, match="no such place in a stage"):
        stage_changes((("embed.pool", "gpu"), (place, 1)))


def test_what_is_no_argument_of_a_stage_is_a_parameter() -> None:
    options = {"model": "x", "params": {"pool": 3}, "buffer": "64MiB", "cache": True}
    change = rerun_request("embed", {"embed": options}, **NOTHING).stages["embed"]
    assert change.params == {"pool": 3, "model": "x"}
    assert (change.buffer_bytes, change.cache, change.pool) == (64 * 1024 * 1024, True, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"name": "x"}, "name of 'embed' cannot be changed"), ({"pool": ""}, "'embed': pool"), ("x", "such as")],
)
def test_a_change_that_does_not_fit_is_refused(options: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        rerun_request("embed", {"embed": options}, **NOTHING)
