"""The file that names servers with streams: who may read what from them, and what it must not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchmill.errors import InvalidSettings, InvalidSource
from batchmill.storage.named_stream_servers import NamedStreamServers, ServerKind

if TYPE_CHECKING:
    from pathlib import Path

FILE = """
[kafka]
url = "kafka+ssl://broker-1.example:9093, broker-2.example:9093"
user = "batchmill"
password_file = "{folder}/password"
tenants = ["search"]
streams = ["search.*", "shared"]

[nats]
url = "nats://[::1]:4222"
password_file = "{folder}/password"
"""


def loaded(folder: Path, text: str) -> NamedStreamServers:
    path = folder / "servers.toml"
    path.write_text(text)
    return NamedStreamServers.load(str(path))


@pytest.fixture
def servers(tmp_path: Path) -> NamedStreamServers:
    (tmp_path / "password").write_text("secret\n")
    return loaded(tmp_path, FILE.replace("{folder}", str(tmp_path)))


def test_a_server_has_its_machines_and_reads_its_password_from_a_file(servers: NamedStreamServers) -> None:
    found = servers.get("kafka", ServerKind.KAFKA, "search.clicks", "search")
    assert found.addresses == ["broker-1.example:9093", "broker-2.example:9093"]
    assert (found.encrypted, found.password()) == (True, "secret")
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("name", "kind", "stream", "tenant", "message"),
    [
        ("kafka", ServerKind.KAFKA, "search.clicks", "other", "no kafka server 'kafka'"),
        ("kafka", ServerKind.KAFKA, "payments", "search", "'payments' may not be read"),
        ("nats", ServerKind.KAFKA, "shared", "search", "no kafka server 'nats'"),
        ("10.0.0.1:9092", ServerKind.KAFKA, "shared", "search", "no kafka server"),
    ],
)
def test_a_tenant_reads_from_no_other_server_and_no_other_stream(  # noqa: PLR0913, RUF100  # a row of the table
    servers: NamedStreamServers, name: str, kind: ServerKind, stream: str, tenant: str, message: str
) -> None:
    with pytest.raises(InvalidSource, match=message):
        servers.get(name, kind, stream, tenant)


@pytest.mark.parametrize(
    "text",
    [
        'url = "kafka://broker"',
        'url = "http://broker:9092"',
        'url = "kafka://me:secret@broker:9092"',
        'url = "nats://broker:4222/path"',
        'url = "kafka://broker:9092"\nuser = "me"',
        'url = "kafka://broker:9092"\npassword_file = "/p"',
        'url = "nats://broker:4222"\nuser = "me"',
        'url = "nats://broker:4222"\npassword = "secret"',
    ],
)
def test_a_server_that_cannot_be_used_is_refused_at_the_start_without_its_password(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidSettings) as raised:
        loaded(tmp_path, f"[main]\n{text}\n")
    assert "BATCHMILL_STREAM_SERVERS" in str(raised.value)
    assert "secret" not in str(raised.value)
