"""Which pools are scaled when there are more than may be, and what is answered for the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchmill.errors import ServiceUnavailable
from batchmill.ledger.formats.work import PoolWork
from batchmill_coordinator.scheduling.scaling.decisions import MAX_POOLS, idle_scale, pools_to_scale
from batchmill_coordinator.scheduling.scaling.targets import PoolTargets
from batchmill_coordinator.scheduling.scaling.view import ScaleView
from support.ledger_steps import submit

if TYPE_CHECKING:
    from batchmill.ledger import Ledger


def test_pools_with_workers_come_first_then_those_with_the_most_to_do() -> None:
    work = {f"a{number:03}": PoolWork(rows=1) for number in range(300)}
    work["z"] = PoolWork(rows=1_000)
    chosen = pools_to_scale(work, ["own"], 3)
    assert chosen == ["own", "z", "a000"]


def test_a_pool_with_work_that_is_left_out_is_not_said_to_need_nothing(ledger: Ledger, epoch: int) -> None:
    targets = PoolTargets(600.0, 60.0)
    view = ScaleView(ledger, targets, "EUR")
    pools = [f"a{number:03}" for number in range(MAX_POOLS)]
    assert ledger.scale.keep(
        epoch, {pool: idle_scale(pool, targets.of(pool)) for pool in pools}, dict.fromkeys(pools, "{}")
    )
    submit(ledger)
    with pytest.raises(ServiceUnavailable, match="is not known"):
        view.of("default")
    assert view.of("nothing-to-do").workers_wanted == 0
