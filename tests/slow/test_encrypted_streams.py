"""Stream servers over TLS, with users: rows are read, who is not trusted gets no password, errors say what is wrong."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from batchmill.errors import StreamUnavailable
from batchmill.jobs.streams.source import Kafka, Nats
from batchmill.settings import CoordinatorSettings
from batchmill.storage.named_stream_servers import NamedStreamServer, NamedStreamServers
from batchmill.streams.kafka_client import KafkaClient
from batchmill.streams.kafka_stream import source_errors
from batchmill.streams.nats_client import NatsClient
from batchmill.streams.nats_stream import NatsReader
from support.certificates import Certificate, make_authority, make_certificate
from support.kafka_gate import KafkaGate
from support.stream_kinds import encoded
from support.stream_reading import Reading
from support.stream_servers import KafkaServer, NatsServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchmill.ledger import Ledger

ROWS = 5


class Trust(NamedTuple):
    """An authority, a certificate of it for "localhost" and for no address, and files with passwords."""

    ca: Path
    certificate: Certificate
    password: Path
    wrong: Path


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Trust:
    folder = tmp_path_factory.mktemp("certificates")
    ca = make_authority(folder)
    (folder / "password").write_text("secret\n")
    (folder / "wrong").write_text("guessed\n")
    certificate = make_certificate(folder, "server", "DNS:localhost")
    return Trust(ca, certificate, folder / "password", folder / "wrong")


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients take less time to find out that they get no connection."""
    monkeypatch.setattr("batchmill.streams.nats_client.TIMEOUT_S", 2.0)
    monkeypatch.setattr("batchmill.streams.kafka_client.TIMEOUT_S", 2.0)


@pytest.fixture
def settings(valkey_url: str, prefix: str, tmp_path: Path) -> CoordinatorSettings:
    return CoordinatorSettings(redis_url=valkey_url, redis_prefix=prefix, blob_root=str(tmp_path), tokens=("secret",))


@pytest.mark.parametrize(
    ("credentials", "user"), [(("--user", "ada", "--pass", "secret"), "ada"), (("--auth", "secret"), None)]
)
def test_nats_is_read_over_tls_by_a_user_or_with_a_token(
    ledger: Ledger,
    settings: CoordinatorSettings,
    trust: Trust,
    tmp_path: Path,
    credentials: tuple[str, ...],
    user: str | None,
) -> None:
    how = {"user": user, "password_file": trust.password, "ca_file": trust.ca}
    tls = ("--tls", "--tlscert", str(trust.certificate.file), "--tlskey", str(trust.certificate.key))
    server = NatsServer(tmp_path, *tls, *credentials, server=how)
    try:
        server.create("events")
        server.add("events", [encoded({"n": n}) for n in range(ROWS)])
        _expect_rows(ledger, settings, Nats("events"), NamedStreamServer(url=server.url, **how))
        assert "Authorization Violation" in _why_not_nats(server.url, **{**how, "password_file": trust.wrong})
        assert "CERTIFICATE_VERIFY_FAILED" in _why_not_nats(server.url, **{**how, "ca_file": None})
        assert "CERTIFICATE_VERIFY_FAILED" in _why_not_nats(_by_address(server.url), **how)
    finally:
        server.stop()


def test_no_password_is_sent_to_a_server_of_nats_that_claims_to_need_no_tls(trust: Trust) -> None:
    with _plain_nats() as (port, received):
        how = {"user": "ada", "password_file": trust.password, "ca_file": trust.ca}
        assert "not connected" in _why_not_nats(f"nats+tls://localhost:{port}", **how)
    assert received
    assert b"secret" not in b"".join(received)


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_kafka_is_read_over_tls_by_a_user(
    ledger: Ledger, settings: CoordinatorSettings, trust: Trust, tmp_path: Path, mechanism: str
) -> None:
    how = {"user": "ada", "password_file": trust.password, "mechanism": mechanism, "ca_file": trust.ca}
    gate = KafkaGate(mechanism, "ada", "secret", trust.certificate)
    server = KafkaServer(
        tmp_path,
        gate,
        security_protocol="SASL_SSL",
        sasl_mechanism=mechanism,
        sasl_username="ada",
        sasl_password=trust.password.read_text().strip(),
        ssl_ca_location=str(trust.ca),
    )
    try:
        server.create("events")
        server.add("events", [encoded({"n": n}) for n in range(ROWS)])
        _expect_rows(ledger, settings, Kafka("events"), NamedStreamServer(url=server.url, **how))
        assert "certificate verify failed" in _why_not_kafka(server.url, **{**how, "ca_file": None})
        assert "certificate verify failed" in _why_not_kafka(_by_address(server.url), **how)
        assert gate.refused == 0, "who is not trusted is sent no password"
        assert "authentication" in _why_not_kafka(server.url, **{**how, "password_file": trust.wrong})
        assert gate.refused > 0
    finally:
        server.stop()
        gate.close()


def _expect_rows(ledger: Ledger, settings: CoordinatorSettings, source: Any, server: NamedStreamServer) -> None:
    reading = Reading(ledger, settings, source, servers=NamedStreamServers({source.server: server}))
    reading.plan(ROWS)
    assert [row["n"] for row in reading.planned_rows()] == list(range(ROWS))


def _by_address(url: str) -> str:
    return url.replace("localhost", "127.0.0.1")


def _why_not_nats(url: str, **how: Any) -> str:
    reader = NatsReader(NatsClient(NamedStreamServer(url=url, **how)), Nats("events"), {})
    with pytest.raises(StreamUnavailable) as raised:
        reader.head("", at_end=False)
    return str(raised.value)


def _why_not_kafka(url: str, **how: Any) -> str:
    client = KafkaClient(NamedStreamServer(url=url, **how))
    with pytest.raises(StreamUnavailable) as raised, source_errors(Kafka("events")):
        client.extents("events")
    return str(raised.value)


@contextmanager
def _plain_nats() -> Iterator[tuple[int, list[bytes]]]:
    """A server that says that it wants a password, and no TLS; yields its port, and what it was sent."""
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with suppress(OSError), client:
                        client.sendall(b'INFO {"server_id":"x","auth_required":true,"max_payload":1024}\r\n')
                        received.append(client.recv(65536))

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        yield listener.getsockname()[1], received
        listener.shutdown(socket.SHUT_RDWR)
        serving.join()
