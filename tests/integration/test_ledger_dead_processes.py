"""The leases of a process that died, on a real Valkey."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchmill.completion import Completion
from batchmill.errors import StaleToken
from batchmill.shard import ShardState
from support.ledger_steps import claim, plan, queue_one, submit

if TYPE_CHECKING:
    from batchmill.ledger import Ledger
    from batchmill.shard import ShardRef


def two_claimed(ledger: Ledger, epoch: int, *holders: str) -> list[ShardRef]:
    """The attempts of a job's two shards, each with its holder."""
    submit(ledger)
    plan(ledger, epoch, [5, 5])
    refs = [queue_one(ledger, epoch, number) for number in range(2)]
    for ref, holder in zip(refs, holders, strict=True):
        claim(ledger, ref, holder=holder)
    return refs


def test_the_leases_of_a_dead_process_end_at_once_and_no_others(ledger: Ledger, epoch: int) -> None:
    first, _ = two_claimed(ledger, epoch, "cpu0@host-1 aa", "cpu0@host-11 bb")
    assert len(ledger.shards.release_leases_of_worker("cpu0@host-1")) == 1
    assert ledger.shards.expired(ledger.now_ms()) == [first]


def test_of_a_dead_process_only_the_shard_on_the_device_is_blamed(ledger: Ledger, epoch: int) -> None:
    guilty, beside = two_claimed(ledger, epoch, "cpu0@host aa", "cpu0@host bb")
    assert len(ledger.shards.release_leases_of_worker("cpu0@host", guilty.attempt_key)) == 2
    assert ledger.shards.expired(ledger.now_ms()) == [guilty]
    spared = ledger.shards.read(beside)
    assert spared is not None
    assert (spared.state, spared.losses) == (ShardState.WAITING, 0)
    with pytest.raises(StaleToken):
        ledger.shards.commit(queue_one(ledger, epoch, 1), Completion(5, 0, 1))


def test_leases_that_nobody_could_renew_begin_anew_but_those_of_dead_processes(ledger: Ledger, epoch: int) -> None:
    alive, dead = two_claimed(ledger, epoch, "cpu0@host-1 aa", "cpu0@host-2 bb")
    ledger.shards.release_leases_of_worker("cpu0@host-2")
    start, ledger._store.now_ms = ledger.now_ms(), ledger.now_ms()
    assert ledger.leases.extend_all(epoch, 10.0) == 0
    ledger._store.now_ms = start + 60_000  # Redis was away: nobody renewed, nobody looked
    assert ledger.leases.extend_all(epoch - 1, 10.0) == 0
    assert ledger.leases.extend_all(epoch, 10.0) == 1
    assert ledger.shards.expired(ledger.now_ms()) == [dead]
    ledger._store.now_ms += 5_000
    assert ledger.leases.extend_all(epoch, 10.0) == 0
    ledger._store.now_ms += 5_001  # nor did its worker renew since
    assert ledger.shards.expired(ledger.now_ms()) == [dead, alive]
