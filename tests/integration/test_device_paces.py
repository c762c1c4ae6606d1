"""What the ledger's profiles of batches say about pools with devices of several types."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from batchmill.fleet import WorkerInfo
from batchmill.operators.contract import OperatorInfo
from batchmill.operators.model_key import profile_name
from batchmill_coordinator.fleet.device_paces import MAX_STAGES, DevicePaces
from batchmill_coordinator.fleet.pools import view_pools
from support.records import spec_of

if TYPE_CHECKING:
    from batchmill.ledger import Ledger
    from batchmill_coordinator.fleet.pools import PoolView

OPERATOR = OperatorInfo(name="echo", params_schema={})
STAGE = spec_of(operator="echo").first
FAST, SLOW = "NVIDIA H100", "NVIDIA T4"


class Fleet:
    """One operator."""

    def operator(self, _name: str) -> OperatorInfo:
        return OPERATOR


def pool(*types: str) -> PoolView:
    workers = [
        WorkerInfo(
            name=f"gpu{number}@host-1",
            pool="default",
            device="cuda:0",
            device_type=one,
            operators=["echo"],
            shards_at_once=2,
            pid=1,
            started_at=0,
        )
        for number, one in enumerate(types)
    ]
    return view_pools(workers)["default"]


def learn(ledger: Ledger, device: str, unit_s: float) -> None:
    timings = [[units, units * unit_s] for units in (64.0, 128.0)]
    name = profile_name(OPERATOR, STAGE.params) + device
    ledger.profiles.write(name, json.dumps({"timings": timings, "more": 1}))


def test_a_pool_of_several_types_counts_as_workers_like_its_slowest(ledger: Ledger) -> None:
    paces = DevicePaces(ledger, cast("Any", Fleet()))
    learn(ledger, f"{FAST}:torch fp16", 0.001)
    learn(ledger, SLOW, 0.008)
    assert paces.workers(STAGE, pool(FAST, SLOW)) == pytest.approx(9)
    assert paces.workers(STAGE, pool(FAST, FAST)) == 2


def test_however_many_stages_there_are_their_profiles_are_looked_for_once(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn(ledger, FAST, 0.001)
    learn(ledger, SLOW, 0.008)
    commands: list[str] = []
    execute = ledger._store.redis.execute_command

    def noted(*command: Any, **options: Any) -> Any:
        commands.append(command[0])
        return execute(*command, **options)

    monkeypatch.setattr(ledger._store.redis, "execute_command", noted)
    paces = DevicePaces(ledger, cast("Any", Fleet()))
    for number in range(2 * MAX_STAGES):
        other = spec_of(operator="echo", params={"number": number}).first
        assert paces.workers(other, pool(FAST, SLOW)) == 2
    assert paces.workers(STAGE, pool(FAST, SLOW)) == pytest.approx(9)
    assert commands == ["HKEYS", "HMGET"]


def test_a_pool_counts_its_workers_while_nothing_is_known_or_can_be_read(ledger: Ledger) -> None:
    ledger.profiles.write(profile_name(OPERATOR, STAGE.params) + SLOW, "{")
    assert DevicePaces(ledger, cast("Any", Fleet())).workers(STAGE, pool(FAST, SLOW)) == 2
