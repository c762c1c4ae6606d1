"""The leases of a process that died, on a real Valkey."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from batchmill.errors import StaleToken
from batchmill.fleet import WorkerInfo
from batchmill.jobs.completion import Completion
from batchmill.jobs.job import JobState
from batchmill.jobs.shard import ShardState
from support.ledger_steps import LEASE_MS, SPEC, claim, plan, queue_one, submit, to_queue

if TYPE_CHECKING:
    from batchmill.jobs.shard import ShardRef
    from batchmill.ledger import Ledger


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
    assert len(ledger.shards.release_leases_of_worker("cpu0@host", {guilty.attempt_key})) == 2
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


def test_a_supervisor_keeps_the_leases_of_its_own_process_and_no_others(ledger: Ledger, epoch: int) -> None:
    own, other = two_claimed(ledger, epoch, "cpu0@host-1 aa", "cpu0@host-2 bb")
    ledger._store.now_ms = ledger.now_ms() + LEASE_MS - 1
    assert ledger.shards.keep_leases("cpu0@host-1", [own, other], LEASE_MS) == [own]
    ledger._store.now_ms += LEASE_MS - 1
    assert ledger.shards.expired(ledger.now_ms()) == [other]


def test_a_supervisor_keeps_its_process_in_the_fleet_until_that_takes_itself_out(ledger: Ledger) -> None:
    name = "cpu0@host-1"
    start = ledger._store.now_ms = ledger.now_ms()
    ledger.shards.keep_leases(name, [], LEASE_MS)
    assert ledger.fleet.workers(start) == []  # it has not announced itself
    worker = WorkerInfo(name=name, pool="default", device="cpu", operators=[], shards_at_once=1, pid=1, started_at=0.0)
    ledger.fleet.announce(worker, [], LEASE_MS / 1000)
    ledger._store.now_ms = start + LEASE_MS - 1
    ledger.shards.keep_leases(name, [], LEASE_MS)
    assert [worker.name for worker in ledger.fleet.workers(start + 2 * LEASE_MS - 2)] == [name]
    ledger.fleet.deregister(name)
    ledger.shards.keep_leases(name, [], LEASE_MS)
    assert ledger.fleet.workers(start) == []


def test_a_lease_that_ended_with_its_process_is_not_kept(ledger: Ledger, epoch: int) -> None:
    dead, _ = two_claimed(ledger, epoch, "cpu0@host-1 aa", "cpu0@host-2 bb")
    ledger.shards.release_leases_of_worker("cpu0@host-1")
    assert ledger.shards.keep_leases("cpu0@host-1", [dead], LEASE_MS) == []
    assert ledger.shards.expired(ledger.now_ms()) == [dead]


def test_an_attempt_that_was_noted_and_not_claimed_is_not_kept(ledger: Ledger, epoch: int) -> None:
    submit(ledger)
    plan(ledger, epoch, [5])
    noted = queue_one(ledger, epoch, 0)
    assert ledger.shards.keep_leases("cpu0@host-1", [noted], LEASE_MS) == []
    claim(ledger, noted, holder="cpu0@host-2 bb")
    assert ledger.shards.keep_leases("cpu0@host-1", [noted], LEASE_MS) == []


def test_a_stage_is_bound_to_the_revision_of_its_first_claim_until_any_is_allowed(ledger: Ledger, epoch: int) -> None:
    submit(ledger)
    plan(ledger, epoch, [5, 5])
    first, second = (queue_one(ledger, epoch, number) for number in range(2))

    def take(ref: ShardRef, version: str, code: str) -> None:
        revision = f"{version} ({code})"
        ledger.shards.claim(ref, "default", "w 1", LEASE_MS, with_job=False, version=version, revision=revision)

    take(first, "1", "aa")
    for version, code in (("2", "bb"), ("1", "cc")):
        with pytest.raises(StaleToken, match="another version"):
            take(second, version, code)
        refused = ledger.shards.read(second)
        assert refused is not None
        assert (refused.state, refused.losses, refused.failures) == (ShardState.WAITING, 0, 0)
        ledger._store.now_ms = ledger.now_ms() + 1_000
        second = queue_one(ledger, epoch, 1)
    record = ledger.jobs.read(first.job_id)
    assert (record.first.operator_version, record.first.revision) == ("1", "1 (aa)")
    assert record.first.shards_queued == 1
    ledger.jobs.resume(first.job_id, any_version=True)
    take(second, "2", "bb")
    assert ledger.jobs.read(first.job_id).first.revision == "2 (bb)"


def test_a_stage_of_any_version_is_claimed_by_each_and_bound_to_none(ledger: Ledger, epoch: int) -> None:
    submit(ledger, spec=SPEC.model_copy(update={"any_version": True}))
    plan(ledger, epoch, [5, 5])
    for number, version in enumerate(("1", "2")):
        ref = queue_one(ledger, epoch, number)
        ledger.shards.claim(
            ref, "default", "w 1", LEASE_MS, with_job=False, version=version, revision=f"{version} (aa)"
        )
        record = ledger.jobs.read(ref.job_id)
        assert (record.first.operator_version, record.first.revision, record.first.shards_running) == (
            "",
            "",
            number + 1,
        )


def test_a_lease_of_a_clock_that_has_gone_back_ends_in_time(ledger: Ledger, epoch: int) -> None:
    start = ledger.now_ms()
    ledger._store.now_ms = start + 10 * 86_400_000
    lost, _ = two_claimed(ledger, epoch, "cpu0@host-1 aa", "cpu0@host-2 bb")
    assert ledger.leases.extend_all(epoch, LEASE_MS / 1000) == 0
    ledger._store.now_ms = start
    assert ledger.leases.extend_all(epoch, LEASE_MS / 1000) == 0
    assert ledger.shards.expired(start) == []
    assert lost in ledger.shards.expired(start + LEASE_MS + 1)


def test_a_retry_and_a_deferred_end_of_a_clock_that_has_gone_back_are_due_in_time(ledger: Ledger, epoch: int) -> None:
    start, day_ms = ledger.now_ms(), 86_400_000
    ledger._store.now_ms = start + 10 * day_ms
    failed, other = two_claimed(ledger, epoch, "cpu0@host-1 aa", "cpu0@host-2 bb")
    for ref in (failed, other):
        ledger.shards.end_attempt(ref, delay_s=1.0, blame=True)
    ledger._store.now_ms = start
    assert ledger.index.late_retries(start + 10_000, 9) == [(failed.job_id, 0)]
    assert ledger.shards.cut_waits({(failed.job_id, 0): start + 10_000}) == {failed.job_id}
    ledger.index.rebuild([failed.job_id])
    assert ledger.index.late_retries(start + 10_000, 9) == []
    assert to_queue(ledger, failed.job_id, 9, start) == []
    due = to_queue(ledger, failed.job_id, 9, start + 10_001)
    assert sorted(due) == sorted([failed.shard_id, other.shard_id])
    assert ledger.shards.cut_waits({(failed.job_id, 0): start + 10_000}) == set()

    ledger.jobs.stop(failed.job_id, JobState.CANCELLING, None)
    ledger.index.defer_finish([failed.job_id], start + 10 * day_ms)
    assert ledger.index.to_finish(start + 1_000, 9, start + 11 * day_ms) == []
    assert ledger.index.to_finish(start + 1_000, 9, start + 2_000) == [failed.job_id]


def test_the_parts_of_an_attempt_whose_number_may_be_given_again_are_not_its_own_to_delete(
    ledger: Ledger, epoch: int
) -> None:
    running, failed = two_claimed(ledger, epoch, "cpu0@host-1 aa", "cpu0@host-2 bb")
    ledger.shards.end_attempt(failed, delay_s=0, blame=True)
    later = replace(running, token=2)  # of the time that a rolled-back ledger has lost
    assert ledger.shards.may_have_again(running)
    assert ledger.shards.may_have_again(later)
    assert not ledger.shards.may_have_again(failed)
    again = queue_one(ledger, epoch, failed.shard_id[0])
    assert again.token == 2
    assert ledger.shards.may_have_again(again)
    assert not ledger.shards.may_have_again(failed)
    ledger.shards.commit(running, Completion(rows=5, rows_dead=0, nbytes=10))
    assert ledger.shards.may_have_again(running)
    assert not ledger.shards.may_have_again(later)
    assert not ledger.shards.may_have_again(replace(running, job_id="job-that-is-gone"))
