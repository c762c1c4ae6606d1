"""The notifier: a tenant with too many messages, or slow receivers, delays no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchmill.jobs.webhooks.delivery import DeliveryState
from batchmill.ledger.documents import UNLIMITED, Document, Quota
from batchmill.storage.named_webhooks import NamedWebhooks
from batchmill.telemetry.metrics import new_registry
from batchmill_coordinator.metering.counts import RoleMetrics
from batchmill_coordinator.roles.clock_guard import ClockGuard
from batchmill_coordinator.roles.sending import notifier as module
from batchmill_coordinator.roles.sending.notifier import MAX_OF_TENANT, THREADS, Notifier
from batchmill_coordinator.status.notices import Notices
from batchmill_coordinator.webhooks import deliveries as deliveries_module
from batchmill_coordinator.webhooks.deliveries import Deliveries, read_message
from support.hand_clock import HandClock
from support.records import job_record
from support.webhook_receiver import write_webhooks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchmill.ledger import JobRecord, Ledger

NOBODY = """
[ops]
url = "http://127.0.0.1:9/"
secret_file = "SECRET"
every_job = true
private_network = true
"""


@pytest.fixture
def notifier(ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notifier]:
    monkeypatch.setattr(deliveries_module, "MAX_PER_TENANT", 1)
    monkeypatch.setattr(module, "MAX_ANNOUNCEMENTS", 2)

    def read(job_id: str) -> JobRecord:
        return job_record(job_id, state="failed", tenant=job_id.partition("-")[0])

    monkeypatch.setattr(ledger.jobs, "read", read)
    named = NamedWebhooks.load(str(write_webhooks(tmp_path, NOBODY)))
    clocks = ClockGuard(ledger, HandClock(ledger.now_ms() / 1000), Notices())
    made = Notifier(ledger, named, Deliveries(ledger, named), clocks, RoleMetrics(new_registry()))
    yield made
    made.close()


def announce(ledger: Ledger, *jobs: str) -> None:
    ledger.streams.redis.zadd(ledger.streams.prefix + "announcements", {f"failed {job}": 1 for job in jobs})


def first_message(ledger: Ledger, notifier: Notifier) -> Document:
    """One that a job of the tenant `one` has just got."""
    announce(ledger, "one-1")
    notifier._make_messages()
    (known,) = ledger.deliveries.page("one", 10)[0]
    return known


def test_a_tenant_that_has_as_many_messages_as_it_may_delays_no_other(
    ledger: Ledger, notifier: Notifier, epoch: int
) -> None:
    announce(ledger, *(f"full-{place}" for place in range(6)), "other-1")
    assert len(ledger.announcements.waiting(100)) == 7
    for _ in range(5):
        notifier.step(epoch)
    assert [len(ledger.deliveries.page(tenant, 10)[0]) for tenant in ("full", "other")] == [1, 1]
    assert len(ledger.announcements.waiting(100)) == 5, "the others wait for room"


def test_a_tenant_has_not_all_threads_whatever_receivers_it_names(ledger: Ledger, notifier: Notifier) -> None:
    message = read_message(first_message(ledger, notifier))

    def document(place: int, tenant: str) -> Document:
        delivery = message.delivery.model_copy(update={"id": f"{tenant}-{place}", "url": f"https://{place}.example/"})
        body = message.model_copy(update={"delivery": delivery}).model_dump_json()
        return Document(delivery.id, tenant, body, 1, 1)

    slow = [document(place, "slow") for place in range(100)]
    begun, busy = notifier._choose([*slow, document(0, "other")])
    assert [one.tenant for one in begun] == ["slow"] * MAX_OF_TENANT + ["other"]
    assert len(busy) == 100 - MAX_OF_TENANT
    begun, _ = notifier._choose([document(place, f"tenant{place}") for place in range(100)])
    assert len(begun) == THREADS - MAX_OF_TENANT - 1


def test_a_backlog_of_one_tenant_is_spread_over_time_and_others_are_sent_in_the_same_step(
    ledger: Ledger, notifier: Notifier, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_DUE", 10)
    known = first_message(ledger, notifier)
    message = read_message(known)
    ledger.deliveries.remove(known.id, "one")
    for place in range(61):
        tenant = "slow" if place < 60 else "other"
        pending = message.delivery.model_copy(update={"id": f"{tenant}-{place}", "url": f"https://{place}.example/"})
        body = message.model_copy(update={"delivery": pending}).model_dump_json()
        ledger.deliveries.add(pending.id, tenant, body, due_ms=place, quota=Quota(100, UNLIMITED))
    begun: list[str] = []
    monkeypatch.setattr(notifier._threads, "submit", lambda _send, document, *_: begun.append(document.id))
    notifier.step(epoch)
    now_ms = ledger.now_ms()
    assert begun == [*(f"slow-{place}" for place in range(MAX_OF_TENANT)), "other-60"]
    waiting = ledger.deliveries.due(now_ms + module.BUSY_MS + 100 * module.BUSY_STEP_MS, 100)
    assert len(waiting) == 60 - MAX_OF_TENANT
    assert len(ledger.deliveries.due(now_ms + module.BUSY_MS - 1000, 100)) == 0
    few = ledger.deliveries.due(notifier._busy_until["slow"] - 10 * module.BUSY_STEP_MS, 100)
    assert len(few) == len(waiting) - 10, "they come one after the other"


def test_tenants_that_wait_get_the_next_threads(ledger: Ledger, notifier: Notifier) -> None:
    notifier._sending = {f"{tenant}-{place}": (tenant, ("ops", tenant)) for tenant in "ab" for place in range(8)}
    notifier._busy_until = dict.fromkeys("abc", ledger.now_ms() + 1000)
    assert notifier._share([]) == THREADS // 3


def test_messages_that_are_only_kept_take_no_threads_from_a_tenant(ledger: Ledger, notifier: Notifier) -> None:
    message = read_message(first_message(ledger, notifier))

    def document(name: str, tenant: str, state: DeliveryState) -> Document:
        delivery = message.delivery.model_copy(update={"id": name, "url": f"https://{name}.example/", "state": state})
        return Document(name, tenant, message.model_copy(update={"delivery": delivery}).model_dump_json(), 1, 1)

    old = [document(f"old-{place}", f"tenant-{place}", DeliveryState.DELIVERED) for place in range(THREADS)]
    new = [document(f"new-{place}", "one", DeliveryState.PENDING) for place in range(MAX_OF_TENANT)]
    assert notifier._choose([*old, *new]) == (new, [])


def test_messages_that_cannot_be_read_hold_up_no_other(
    ledger: Ledger, notifier: Notifier, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_DUE", 3)
    known = first_message(ledger, notifier)
    for place in range(3):
        ledger.deliveries.add(f"odd-{place}", "odd", "{}", due_ms=0, quota=Quota(10, UNLIMITED))
    begun: list[str] = []
    monkeypatch.setattr(notifier._threads, "submit", lambda _send, document, *_: begun.append(document.id))
    notifier.step(epoch)
    assert begun == [known.id]
    assert ledger.deliveries.due(ledger.now_ms(), 10) == [], "they are looked at again later"


def test_messages_that_cannot_be_forgotten_yet_hold_up_no_other(
    ledger: Ledger, notifier: Notifier, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_DUE", 3)
    known = first_message(ledger, notifier)
    message = read_message(known)
    for place in range(3):
        old = message.delivery.model_copy(update={"id": f"old-{place}", "state": DeliveryState.DELIVERED})
        body = message.model_copy(update={"delivery": old}).model_dump_json()
        ledger.deliveries.add(old.id, "old", body, due_ms=0, quota=Quota(10, UNLIMITED))
    monkeypatch.setattr(notifier._clocks, "is_trusted", lambda: False)
    tried: list[str] = []
    monkeypatch.setattr(notifier, "_send", lambda document, *_: tried.append(document.id))
    notifier.step(epoch)
    notifier.step(epoch)
    notifier._threads.shutdown()
    assert tried == [known.id]
    assert len(ledger.deliveries.page("old", 10)[0]) == 3, "they are kept"
