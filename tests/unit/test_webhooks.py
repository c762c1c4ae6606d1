"""Webhooks: signatures, receivers in private networks, what follows a try, and what jobs may name."""

from __future__ import annotations

import random
import socket
import time
from typing import TYPE_CHECKING, Any

import openai
import pytest

from batchmill.errors import InvalidRequest, InvalidSettings
from batchmill.jobs.webhooks.delivery import DeliveryState
from batchmill.jobs.webhooks.spec import WebhookEvent, WebhookSpec
from batchmill.ledger.announcements import Announcement
from batchmill.storage.named_webhooks import NamedWebhooks, url_fault
from batchmill_coordinator.webhooks.deliveries import GIVE_UP_S, after_try
from batchmill_coordinator.webhooks.messages import Message, announces, messages
from batchmill_coordinator.webhooks.sender import Answer, _is_public, send
from batchmill_coordinator.webhooks.signature import signed_headers
from support.records import job_record, spec_of
from support.webhook_receiver import KEY, SECRET, write_webhooks

if TYPE_CHECKING:
    from pathlib import Path

NOW_S = 1_900_000_000.0
ENTRIES = """
[ops]
url = "https://ops.example/hook"
secret_file = "SECRET"
events = ["job.failed", "job.dead_rows"]
dead_rows = 10
every_job = true

[own]
secret_file = "SECRET"
tenants = ["default"]
"""


@pytest.fixture
def named(tmp_path: Path) -> NamedWebhooks:
    return NamedWebhooks.load(str(write_webhooks(tmp_path, ENTRIES)))


def announcement(what: str) -> Announcement:
    return Announcement.parse(f"{what} job-1".encode(), NOW_S * 1000)


def a_message(named: NamedWebhooks) -> Message:
    return next(messages(job_record(state="failed"), announcement("failed"), named))


def verify(body: bytes, headers: dict[str, str]) -> None:
    openai.OpenAI(api_key="none").webhooks.verify_signature(body.decode(), headers, secret=SECRET)


def test_a_signature_is_accepted_by_another_implementation_also_while_the_secret_changes() -> None:
    body = '{"type":"job.completed","name":"ü"}'.encode()
    now_s = int(time.time())
    verify(body, signed_headers("msg_1", now_s, body, [KEY]))
    verify(body, signed_headers("msg_1", now_s, body, [b"another key of twenty-four bytes", KEY]))
    for headers, sent in (
        (signed_headers("msg_1", now_s, body, [b"another key of twenty-four bytes"]), body),
        (signed_headers("msg_1", now_s, body, [KEY]) | {"webhook-id": "msg_2"}, body),
        (signed_headers("msg_1", now_s - 3600, body, [KEY]), body),
        (signed_headers("msg_1", now_s, body, [KEY]), body + b" "),
    ):
        with pytest.raises(openai.InvalidWebhookSignatureError):
            verify(sent, headers)


@pytest.mark.parametrize(
    ("address", "is_public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),  # noqa: S104  # nothing listens there
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("fec0::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b::5db8:d822", True),
        ("2002:a9fe:a9fe::1", False),
    ],
)
def test_only_public_addresses_are_sent_to(address: str, *, is_public: bool) -> None:
    assert _is_public(address) == is_public


def test_a_name_with_one_private_address_is_not_sent_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(*_: object, **__: object) -> list[Any]:
        return [(0, 0, 0, "", (address, 443)) for address in ("93.184.216.34", "10.0.0.1")]

    def connect(*_: object, **__: object) -> None:
        raise AssertionError("it connected")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    answer = send("https://rebind.example/", b"{}", {}, private_network=False)
    assert (answer.status, answer.is_taken, "10.0.0.1" in answer.error) == (None, False, True)


@pytest.mark.parametrize(
    ("url", "private_network", "is_fit"),
    [
        ("https://h/x?y=1", False, True),
        ("http://h/x", False, False),
        ("http://h:8080/x", True, True),
        ("ftp://h", True, False),
        ("https://me:secret@h", False, False),
        ("https://h/#x", False, False),
        ("https:///x", False, False),
        ("https://h:99999/", False, False),
        ("https://h/a b", False, False),
        ("https://h/\r\nX: 1", False, False),
    ],
)
def test_addresses_of_receivers_are_checked(url: str, *, private_network: bool, is_fit: bool) -> None:
    assert (url_fault(url, private_network=private_network) is None) == is_fit


def test_each_receiver_gets_what_it_wants_under_an_id_that_is_always_the_same(named: NamedWebhooks) -> None:
    own = WebhookSpec(name="own", url="https://own.example", events=[WebhookEvent.COMPLETED], dead_rows=5)
    spec = spec_of("echo", webhooks=[own])
    record = job_record(spec=spec, state="completed")
    assert announces(spec, "default", named) == "ends 10"
    assert announces(spec_of("echo"), "default", NamedWebhooks()) is None
    completed = list(messages(record, announcement("completed"), named))
    assert [(one.delivery.webhook, one.delivery.url) for one in completed] == [("own", "https://own.example")]
    assert [one.delivery.webhook for one in messages(record, announcement("failed"), named)] == ["ops"]
    assert [one.delivery.webhook for one in messages(record, announcement("dead_rows:10"), named)] == ["ops"]
    assert list(messages(record, announcement("dead_rows:5"), named)) == []
    again = list(messages(record, announcement("completed"), named))
    assert [one.delivery.id for one in again] == [one.delivery.id for one in completed]


def test_a_message_is_sent_again_with_growing_waits_until_three_days_are_over(named: NamedWebhooks) -> None:
    message, now_s, rng = a_message(named), NOW_S, random.Random(7)
    waits: list[float] = []
    while message.delivery.state is DeliveryState.PENDING:
        message = after_try(message, Answer(503, "the receiver answered 503"), now_s, rng)
        waits.append((message.delivery.next_at or now_s) - now_s)
        now_s = message.delivery.next_at or now_s
    assert message.delivery.state is DeliveryState.GIVEN_UP
    assert GIVE_UP_S - 6 * 3600 < now_s - NOW_S <= GIVE_UP_S
    assert 20 < message.delivery.tries < 40
    assert waits[0] <= 5 < 60 < waits[6]


@pytest.mark.parametrize(
    ("answer", "state", "least_wait_s"),
    [
        (Answer(204), DeliveryState.DELIVERED, None),
        (Answer(410, "gone"), DeliveryState.GIVEN_UP, None),
        (Answer(429, "busy", 120.0), DeliveryState.PENDING, 120.0),
        (Answer(503, "busy", 1e9), DeliveryState.PENDING, 3600.0),
        (Answer(302, "moved"), DeliveryState.PENDING, 0.0),
        (Answer(None, "refused"), DeliveryState.PENDING, 0.0),
    ],
)
def test_what_follows_an_answer(
    named: NamedWebhooks, answer: Answer, state: DeliveryState, least_wait_s: float | None
) -> None:
    after = after_try(a_message(named), answer, NOW_S, random.Random(7)).delivery
    assert (after.state, after.tries, after.status) == (state, 1, answer.status)
    if least_wait_s is None:
        assert after.next_at is None
    else:
        assert after.next_at is not None
        assert least_wait_s <= after.next_at - NOW_S <= least_wait_s + 5


@pytest.mark.parametrize(
    ("spec", "tenant", "named_in_error"),
    [
        (WebhookSpec(name="opss"), "default", "ops"),
        (WebhookSpec(name="ops", url="https://h"), "default", "no url"),
        (WebhookSpec(name="own"), "default", "a url"),
        (WebhookSpec(name="own", url="http://h"), "default", "https://"),
        (WebhookSpec(name="own", url="https://h"), "search", "no webhook 'own'"),
    ],
)
def test_a_webhook_that_a_job_may_not_have_is_refused(
    named: NamedWebhooks, spec: WebhookSpec, tenant: str, named_in_error: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        named.check([spec], tenant)
    assert named_in_error in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[a]\nurl = "http://h"\nsecret_file = "SECRET"', "https://"),
        ('[a]\nsecret_file = "SECRET"\nevery_job = true', "needs a url"),
        ('[a]\nsecret_file = "/none/such"', "/none/such"),
        ('[a]\nurl = "https://h"', "secret_file"),
        ('[a]\nsecret_file = "SECRET"\nevents = ["job.ended"]', "events"),
        ('["a b"]\nsecret_file = "SECRET"', "a b"),
    ],
)
def test_a_file_of_receivers_that_is_wrong_stops_the_start(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(InvalidSettings) as refused:
        NamedWebhooks.load(str(write_webhooks(tmp_path, text)))
    assert expected in str(refused.value)


def test_a_secret_that_is_short_is_refused_with_how_to_make_one(tmp_path: Path) -> None:
    path = write_webhooks(tmp_path, ENTRIES)
    (tmp_path / "secret").write_text("whsec_c2hvcnQ=")
    with pytest.raises(InvalidSettings, match="token_bytes"):
        NamedWebhooks.load(str(path))
