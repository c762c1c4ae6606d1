"""Webhooks of a real service, to a real receiver: at least once, whoever is killed, and no receiver delays another."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

import batchmill
from batchmill.errors import InvalidRequest
from support.waiting import until
from support.webhook_receiver import Receiver, write_webhooks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.cluster import Cluster

ENTRY = """
[{name}]
url = "{url}"
secret_file = "SECRET"
private_network = true
every_job = {every_job}
dead_rows = 3
"""


@pytest.fixture
def ops() -> Iterator[Receiver]:
    """The receiver of every job."""
    with Receiver() as receiver:
        receiver.gate.set()
        yield receiver


def start(make: Callable[..., Cluster], folder: Path, coordinators: int = 1, **receivers: Receiver) -> Cluster:
    entries = [
        ENTRY.format(name=name, url=one.url, every_job=str(name == "ops").lower()) for name, one in receivers.items()
    ]
    own = '[own]\nsecret_file = "SECRET"\n[lan]\nsecret_file = "SECRET"\nprivate_network = true\n'
    path = write_webhooks(folder, "".join(entries) + own)
    return make(WEBHOOKS=path).start(coordinators=coordinators, slots=(1,))


def test_each_end_of_a_job_and_many_failed_rows_are_told(
    cluster: Callable[..., Cluster], tmp_path: Path, ops: Receiver
) -> None:
    client = start(cluster, tmp_path, ops=ops).clients["a"]
    done = client.submit("shout", rows=[{"text": "a"}], name="small")
    done.wait(timeout=60)
    failed = client.submit("picky", rows=[{"id": 10}], retry=batchmill.RetryPolicy(max_dead=0))
    dead = client.submit("picky", rows=[{"id": row} for row in range(1, 60)])
    until(lambda: failed.status().is_final and dead.status().is_final, "the end of two jobs")
    gated = client.submit("gated", rows=[{"id": 1}], params={"gate": str(tmp_path / "gate")})
    gated.cancel()
    (tmp_path / "gate").touch()
    until(lambda: len(ops.received) >= 5, "five messages")
    told = [(one.message["type"], one.message["data"]["job"]) for one in ops.received]
    assert sorted(told) == sorted(
        [
            ("job.completed", done.id),
            ("job.failed", failed.id),
            ("job.completed", dead.id),
            ("job.dead_rows", dead.id),
            ("job.cancelled", gated.id),
        ]
    )
    first = next(one.message["data"] for one in ops.received if one.message["data"]["job"] == done.id)
    assert (first["name"], first["state"], first["rows_done"], first["error"]) == ("small", "completed", 1, None)
    listed = client.webhook_deliveries()
    assert {(one.job, one.state) for one in listed} == {(job, "delivered") for _, job in told}
    assert {one.id for one in listed} == {one.id for one in ops.received}


def test_a_message_is_sent_by_the_next_leader_if_the_first_is_killed_while_it_sends(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    with Receiver() as receiver:
        running = start(cluster, tmp_path, coordinators=2, ops=receiver)
        job = running.ask(lambda client: client.submit("shout", rows=[{"text": "a"}]))
        until(lambda: receiver.came > 0, "the first try")
        leader = running.leader()
        assert leader is not None
        leader.kill()
        receiver.gate.set()
        until(lambda: receiver.came > 1, "another try")
        until(
            lambda: running.ask(lambda client: [one.state for one in client.webhook_deliveries()]) == ["delivered"],
            "the end of the delivery",
        )
        assert {one.id for one in receiver.received} == {receiver.received[0].id}
        assert {one.message["data"]["job"] for one in receiver.received} == {job.id}


def test_a_receiver_that_hangs_delays_no_other_and_no_job(cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    with Receiver() as hanging, Receiver() as quick:
        quick.gate.set()
        client = start(cluster, tmp_path, ops=hanging, quick=quick).clients["a"]
        jobs = [client.submit("shout", rows=[{"text": str(number)}], webhooks=["quick"]) for number in range(40)]
        for job in jobs:
            job.wait(timeout=60)
        until(lambda: len(quick.received) == len(jobs), "the messages of the receiver that answers")
        assert hanging.received == []
        assert hanging.came <= 4
        hanging.gate.set()


def test_a_receiver_that_fails_is_asked_again_and_a_message_can_be_sent_again(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    with ExitStack() as stack:
        failing = stack.enter_context(Receiver(lambda number: 500 if number == 0 else 204))
        gone = stack.enter_context(Receiver(lambda number: 410 if number == 0 else 200))
        moved = stack.enter_context(Receiver(lambda _: 302))
        for receiver in (failing, gone, moved):
            receiver.gate.set()
        running = start(cluster, tmp_path, failing=failing, gone=gone, moved=moved)
        client = running.clients["a"]
        job = client.submit("shout", rows=[{"text": "a"}], webhooks=["failing", "gone", "moved"])
        until(lambda: len(failing.received) == 2, "a second try")
        assert failing.received[0].id == failing.received[1].id
        until(lambda: state_of(running, "gone") == "given_up", "the end of the message to who is gone")
        until(lambda: any(entry.event == "webhook" for entry in job.log()), "an entry in the job's log")
        until(lambda: len(moved.received) > 1, "two tries at who has moved")
        assert {one.path for one in moved.received} == {"/hook?from=batchmill"}, "a redirect was followed"
        (given_up,) = [one for one in client.webhook_deliveries() if one.webhook == "gone"]
        client.replay_webhook(given_up.id)
        until(lambda: state_of(running, "gone") == "delivered", "the message that was sent again")
        assert [one.id for one in gone.received] == [given_up.id] * 2


def test_a_job_names_receivers_in_public_networks_only_unless_its_operator_allows_others(
    cluster: Callable[..., Cluster], tmp_path: Path
) -> None:
    with Receiver() as receiver:
        receiver.gate.set()
        client = start(cluster, tmp_path).clients["a"]
        with pytest.raises(InvalidRequest, match="https://"):
            client.submit("shout", rows=[{"text": "a"}], webhooks=[{"name": "own", "url": receiver.url}])
        with pytest.raises(InvalidRequest, match="no webhook"):
            client.submit("shout", rows=[{"text": "a"}], webhooks=["other"])
        inside = receiver.url.replace("http://", "https://")
        client.submit(
            "shout",
            rows=[{"text": "a"}],
            webhooks=[{"name": "own", "url": inside}, {"name": "lan", "url": receiver.url}],
        )
        until(lambda: len(receiver.received) == 1, "the message that may be sent")
        until(lambda: any(one.tries for one in client.webhook_deliveries() if one.webhook == "own"), "a refusal")
        (refused,) = [one for one in client.webhook_deliveries() if one.webhook == "own"]
        assert "127.0.0.1, which is not a public address" in (refused.error or "")
        assert receiver.came == 1


def state_of(running: Cluster, webhook: str) -> str:
    found = running.ask(lambda client: client.webhook_deliveries())
    return next((str(one.state) for one in found if one.webhook == webhook), "")
