"""A worker process that may not have more memory: batches shrink until they fit, and a row that never does is found."""

from __future__ import annotations

import resource
from typing import TYPE_CHECKING

import psutil
import pytest

from support.waiting import GRACE_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.cluster import Cluster

ROWS = 40
MB = 100  # of a row
ROOM_MB = 450  # more than the process has: four rows fit, eight do not


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_batches_shrink_until_they_fit_and_a_row_that_never_does_is_set_aside(
    cluster: Callable[..., Cluster], library: str
) -> None:
    running = cluster().start(slots=(1,))
    client, params = running.clients["a"], {"library": library}
    client.submit("hungry", rows=[{"id": 0, "mb": 1}], params=params).wait(timeout=GRACE_S)  # has the library imported
    (slot,) = running.slots()
    slot.rlimit(psutil.RLIMIT_AS, (slot.memory_info().vms + (ROOM_MB << 20), resource.RLIM_INFINITY))

    rows = [{"id": n, "mb": 10 * MB if n == 17 else MB} for n in range(ROWS)]
    job = client.submit("hungry", rows=rows, params=params, carry=["id"])
    results = list(job.results())
    assert [row["id"] for row in results] == [n for n in range(ROWS) if n != 17]
    assert {row["rows"] for row in results} <= {1, 2, 3, 4}
    assert {row["taken"] for row in results} == {row["rows"] * MB << 20 for row in results}
    (letter,) = job.dead_letters()
    assert (letter.index, letter.error_type, letter.attempts) == (17, "too_large", 1)
    assert "does not fit into the worker's memory, even alone" in letter.message
    assert slot.is_running()
